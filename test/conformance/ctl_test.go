package conformance

import (
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/ctl"
	"golang.org/x/sync/errgroup"
)

var checks = flag.String("checks", "datascale", "etcdctl's checks to run, which put load on the server")

// TestEtcdctl runs etcdctl on etcd and on the server under test.
func TestEtcdctl(t *testing.T) {
	for _, format := range ctl.Formats() {
		t.Run(format, func(t *testing.T) {
			steps := ctl.Steps(format)
			if *datastore == "postgres" {
				steps = ctl.Shared(steps)
			}
			compareEtcdctl(t, *server, format, steps)
		})
	}
}

// TestEtcdctlOfEtcd proves that the masks leave nothing by which two etcds differ.
func TestEtcdctlOfEtcd(t *testing.T) {
	same := slices.DeleteFunc(ctl.Steps("simple"), func(s ctl.Step) bool { return s.Differs != "" })
	compareEtcdctl(t, "etcd", "simple", same)
}

// TestEtcdctlChecks runs etcdctl's checks on the server under test. They find it well or slow; here they have to end.
func TestEtcdctlChecks(t *testing.T) {
	steps, err := ctl.Checks(strings.Split(*checks, ",")...)
	if err != nil {
		t.Fatal(err)
	}
	results, err := ctl.Run(t.Context(), ctlTarget(t, *server), "simple", steps)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !ctl.Judged(r) {
			t.Errorf("etcdctl %s: %s", r.Args, r)
		}
	}
}

func compareEtcdctl(t *testing.T, tested, format string, steps []ctl.Step) {
	var group errgroup.Group
	var results [2][]ctl.Result
	for i, name := range []string{"etcd", tested} {
		target := ctlTarget(t, name)
		group.Go(func() (err error) {
			results[i], err = ctl.Run(t.Context(), target, format, steps)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	for _, difference := range ctl.Compare(results[0], results[1]) {
		t.Error(difference)
	}
	t.Logf("%d commands", len(results[0]))
}

// ctlTarget starts an empty server for etcdctl.
func ctlTarget(t *testing.T, name string) ctl.Target {
	t.Helper()
	p := start(t, binary(t, name), nil)
	return ctl.Target{Etcdctl: binary(t, "etcdctl"), Endpoint: p.Endpoint(), Peer: p.PeerEndpoint(), Dir: filepath.Clean(t.TempDir()), Conn: p.Conn()}
}
