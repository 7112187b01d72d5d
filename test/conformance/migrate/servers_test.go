package migrate

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
	"github.com/keelson-io/keelson/test/ports"
)

var binDir = flag.String("bin", "../../../.build/bin", "directory of keelson, etcd, etcdutl and kine")

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(*binDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds keelson, make peers the others", err)
	}
	return path
}

// try runs a command and gives all of its output.
func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool(t, name), args...).CombinedOutput()
	return string(out), err
}

// run runs a command, which has to succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// migrate moves a store, and gives what the command says.
func migrate(t *testing.T, from, to string, more ...string) string {
	t.Helper()
	out := run(t, "keelson", append([]string{"migrate", "--from", from, "--to", to}, more...)...)
	if !strings.Contains(out, "equal: ") {
		t.Errorf("migrate --from %s --to %s has no proof:\n%s", from, to, out)
	}
	return out
}

// refused is a migration that must not be done, for a reason.
func refused(t *testing.T, reason, from, to string, more ...string) {
	t.Helper()
	out, err := try(t, "keelson", append([]string{"migrate", "--from", from, "--to", to}, more...)...)
	if err == nil || !strings.Contains(out, reason) {
		t.Errorf("migrate --from %s --to %s %q: %v, and not because of %q:\n%s", from, to, more, err, reason, out)
	}
}

// server is a process with clients.
type server struct {
	t *testing.T
	*clients
	stop, kill func() error
	url        string
}

type clients struct {
	conn *grpc.ClientConn
	pb.KVClient
	pb.LeaseClient
	pb.MaintenanceClient
	pb.AuthClient
	pb.WatchClient
}

func dial(t *testing.T, endpoint string) *clients {
	t.Helper()
	conn, err := script.Dial(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return clientsOf(conn)
}

func clientsOf(conn *grpc.ClientConn) *clients {
	return &clients{conn, pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn), pb.NewAuthClient(conn), pb.NewWatchClient(conn)}
}

// start starts an etcd or a Keelson on the data directory dir/data, which may not be there.
func start(t *testing.T, name, dir string, flags ...string) *server {
	t.Helper()
	p, err := launch.Start(t.Context(), launch.Options{Binary: tool(t, name), Dir: dir, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, p.LogTail())
		}
	})
	return &server{t, dial(t, p.Endpoint()), p.Stop, p.Kill, "http://" + p.Endpoint()}
}

// startKine starts a kine on a database.
func startKine(t *testing.T, endpoint string) *server {
	t.Helper()
	address := ports.Address(t)
	var log bytes.Buffer
	cmd := exec.Command(tool(t, "kine"), "--endpoint="+endpoint, "--listen-address=tcp://"+address, "--metrics-bind-address=0", "--compact-min-retain=0")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	end := func(sig syscall.Signal) func() error {
		return func() error {
			if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
			<-exited
			exited <- nil
			return nil
		}
	}
	t.Cleanup(func() {
		if err := end(syscall.SIGKILL)(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("kine's log:\n%s", log.String())
		}
	})
	s := &server{t, dial(t, address), end(syscall.SIGTERM), end(syscall.SIGKILL), "http://" + address}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Range(ctx, &pb.RangeRequest{Key: []byte("/registry/health")}); err != nil {
		t.Fatalf("kine does not answer: %v", err)
	}
	return s
}

// must ends the test on an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// lines gives a range as of a revision, a line for each key. version says whether versions count: kine has none.
func (s *server) lines(key, end string, revision int64, version bool) string {
	s.t.Helper()
	resp := must[*pb.RangeResponse](s.t)(s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Revision: revision}))
	var b strings.Builder
	fmt.Fprintln(&b, resp.Count)
	for _, kv := range resp.Kvs {
		if !version {
			kv.Version = 0
		}
		fmt.Fprintf(&b, "%q=%q create %d mod %d version %d lease %x\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	return b.String()
}

// revision is the current one.
func (s *server) revision() int64 {
	s.t.Helper()
	return must[*pb.RangeResponse](s.t)(s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte("/registry/health")})).Header.Revision
}

// history gives all ranges from a revision to another.
func (s *server) history(key, end string, from, to int64, version bool) map[int64]string {
	s.t.Helper()
	all := map[int64]string{}
	for r := from; r <= to; r++ {
		all[r] = s.lines(key, end, r, version)
	}
	return all
}

// hashes gives HashKV at the revisions from one to another.
func (s *server) hashes(from, to int64) map[int64]string {
	s.t.Helper()
	all := map[int64]string{}
	for r := from; r <= to; r++ {
		resp := must[*pb.HashKVResponse](s.t)(s.HashKV(s.t.Context(), &pb.HashKVRequest{Revision: r}))
		all[r] = fmt.Sprint(resp.Hash, " compacted at ", resp.CompactRevision)
	}
	return all
}

// same compares what two servers say.
func same(t *testing.T, what string, want, got map[int64]string) {
	t.Helper()
	for r, w := range want {
		if got[r] != w {
			t.Errorf("%s at revision %d:\n%s\nand not\n%s", what, r, got[r], w)
			return
		}
	}
	if len(want) != len(got) {
		t.Errorf("%s: %d revisions, and not %d", what, len(got), len(want))
	}
}

// events gives what a watch from a revision up to another sees. before says whether the values before count: kine has them only if they are no older than the compact revision.
func (s *server) events(prefix, end string, from, to int64, before bool) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	w := must[grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse]](s.t)(s.Watch(ctx))
	if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(prefix), RangeEnd: []byte(end), StartRevision: from, PrevKv: true,
	}}}); err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	for {
		resp := must[*pb.WatchResponse](s.t)(w.Recv())
		for _, e := range resp.Events {
			fmt.Fprintf(&b, "%v %q mod %d", e.Type, e.Kv.Key, e.Kv.ModRevision)
			if e.Type == mvccpb.Event_PUT {
				fmt.Fprintf(&b, " =%q create %d lease %x", e.Kv.Value, e.Kv.CreateRevision, e.Kv.Lease)
			}
			if before {
				fmt.Fprintf(&b, " before %q", e.PrevKv.GetValue())
			}
			b.WriteByte('\n')
			if e.Kv.ModRevision >= to {
				return b.String()
			}
		}
	}
}
