package metrics

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// listed is a line of the table of etcd's metrics.
type listed struct{ name, kind, here string }

func etcdsMetrics(t *testing.T) []listed {
	text, err := os.ReadFile("testdata/etcd.txt")
	if err != nil {
		t.Fatal(err)
	}
	var table []listed
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.SplitN(line, " ", 3)
		if len(parts) != 3 {
			t.Fatalf("a line of the table has not three parts: %q", line)
		}
		table = append(table, listed{parts[0], parts[1], parts[2]})
	}
	return table
}

// gathered gives the types of what a registry has.
func gathered(t *testing.T, r *prometheus.Registry) map[string]string {
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	return kinds
}

// TestTable holds the metrics to the table of etcd's: names and types, and nothing beside them.
func TestTable(t *testing.T) {
	f := newFixture(t)
	f.raiseAlarm()
	f.m.Started("unary", "/etcdserverpb.KV/Put", "3.7")
	f.m.Handled("unary", "/etcdserverpb.Cluster/MemberPromote", rpctypes.ErrGRPCMemberNotLearner, 0)
	have := gathered(t, f.registry)
	for _, e := range etcdsMetrics(t) {
		kind, served := have[e.name]
		delete(have, e.name)
		reason, absent := strings.CutPrefix(e.here, "absent: ")
		switch {
		case e.here == "served" && !served:
			t.Errorf("%s is missing", e.name)
		case e.here == "served" && kind != e.kind:
			t.Errorf("%s is a %s here and a %s in etcd", e.name, kind, e.kind)
		case e.here != "served" && served:
			t.Errorf("%s is served, and the table says %q", e.name, e.here)
		case absent && reason == "" || !absent && e.here != "served" && e.here != "httpapi":
			t.Errorf("%s: the table says %q, which is no reason", e.name, e.here)
		}
	}
	for _, own := range []string{"keelson_history_kept_entries", "keelson_history_kept_bytes", "keelson_history_kept_other_entries"} {
		if have[own] != "gauge" {
			t.Errorf("%s is a %q", own, have[own])
		}
		delete(have, own)
	}
	for name := range have {
		t.Errorf("%s is not one of etcd's", name)
	}
}
