package report

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/bench/load"
	"github.com/keelson-io/keelson/test/bench/server"
)

func results(t *testing.T) *Results {
	table := Tables("bin", "self")[0]
	loads := table.Loads
	r := New(table)
	r.Date, r.Rounds, r.Scale = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), 3, 1
	r.Machine = Machine{CPU: "Some CPU", Cores: 2, MemoryGiB: 7.5, Kernel: "6.1.0", Go: "go1.26.0", Filesystem: "ext4", Fdatasync: 250 * time.Microsecond}
	i := slices.IndexFunc(loads, func(l load.Load) bool { return l.Name == "create-100" })
	for round := range 3 {
		more := float64(round)
		for name, f := range map[string]load.Figures{
			server.Etcd:     {"create-100.rate": 14_000 + more, "create-100.p99": 0.018},
			server.KineFull: {"create-100.rate": 1_300, "create-100.p99": 1.033},
			server.Keelson:  {"create-100.rate": 22_400 + 2800*more, "create-100.p99": 0.018},
		} {
			r.Add(loads[i], name, f)
		}
	}
	r.Add(loads[i], server.Kine, load.Figures{"create-100.rate": 2_000, "create-100.p99": 0.7})
	r.Add(loads[i], server.Kine, nil)
	r.Failures = []Failure{{Round: 2, Load: "create-100", Server: "kine", Error: "database\nis locked"}}
	return r
}

func TestMarkdown(t *testing.T) {
	got := results(t).Markdown()
	for _, want := range []string{
		"Measured on 2026-11-22: Some CPU, 2 cores, 7.5 GiB, Linux 6.1.0, go1.26.0, ext4 (4 KiB appended and synced in 0.25 ms);",
		"\n| | etcd 3.7.3 | kine 0.17.5, FULL | kine 0.17.5, its default | Keelson | stores nothing | Keelson ÷ etcd | floor |\n",
		"\n|---|---:|---:|---:|---:|---:|---:|---|\n",
		"\n| create, 100 clients | 14,001/s | 1,300/s | failed | 25,200/s | — | 1.80 (1.60–2.00) |" +
			" ✓ ≥ 1.5 × etcd, ✓ ≥ 10 × kine 0.17.5, FULL: 19.38 (17.23–21.54) |\n",
		"\n| the same, p99 of the latency | 18.0 ms | 1.03 s | failed | 18.0 ms | — | 1.00 (1.00–1.00) | ✗ < etcd |\n",
		"\n| get, 100 clients | — | — | — | — | — | — | ? ≥ 1.4 × etcd |\n",
		"\nFloors met: 2. Not met: create-100.p99 against etcd. Not measured in this run: create-1.rate against etcd,",
		"\nFailed in round 2: create-100 on kine: database is locked\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks\n%s\nin\n%s", want, got)
		}
	}
}

func TestScaledResultsSaySo(t *testing.T) {
	r := results(t)
	if strings.Contains(r.Markdown(), "quick look") {
		t.Error("a full table calls itself a quick look")
	}
	r.Scale = 0.1
	if !strings.Contains(r.Markdown(), "multiplied by 0.1") {
		t.Error("a scaled table does not say so")
	}
}

func TestJudgeable(t *testing.T) {
	r := results(t)
	if !r.Judgeable() {
		t.Error("a failure of kine spoils the run")
	}
	for _, name := range []string{server.Etcd, server.Keelson} {
		r.Failures[0].Server = name
		if r.Judgeable() {
			t.Errorf("a failure of %s does not spoil the run", name)
		}
	}
}

func TestFloorsNameMeasuresAndServers(t *testing.T) {
	for _, table := range Tables("", "") {
		units := map[string]load.Unit{}
		for _, l := range table.Loads {
			for _, m := range l.Measures {
				units[m.ID] = m.Unit
			}
		}
		names := map[string]bool{}
		for _, s := range table.Servers {
			names[s.Name] = true
		}
		for _, f := range table.Floors {
			if units[f.Measure] == "" || !names[f.Of] || f.Against != "" && !names[f.Against] || f.Factor <= 0 {
				t.Errorf("%s: floor %+v names no measure, no server or no factor", table.Name, f)
			}
		}
		if !names[table.Ours] || !names[table.Reference] {
			t.Errorf("%s has no %s or no %s", table.Name, table.Ours, table.Reference)
		}
	}
}

func TestPostgresMarkdown(t *testing.T) {
	table := Tables("bin", "self")[1]
	r := New(table)
	r.Rounds, r.Scale, r.Software = 1, 1, "PostgreSQL of some version."
	for name, f := range map[string]load.Figures{
		server.KinePostgres:       {"create-100.rate": 1_000, "create-100.p99": 0.7, "create-100.connections": 120},
		server.KeelsonPostgres:    {"create-100.rate": 13_000, "create-100.p99": 0.07, "create-100.connections": 7},
		server.KeelsonPostgresTwo: {"create-100.rate": 7_900, "create-100.p99": 0.1, "create-100.share": 0.34, "create-100.connections": 9},
	} {
		r.Add(table.Loads[0], name, f)
	}
	got := r.Markdown()
	for _, want := range []string{
		"\n\nPostgreSQL of some version.\n\n",
		"\n| | kine 0.17.5 | kine 0.17.5, 120 connections | Keelson | Keelson, two servers | Keelson ÷ kine | floor |\n",
		"| 1,000/s | — | 13,000/s | 7,900/s | 13.00 | ✓ ≥ 12 × kine, ✗ ≥ 8 × kine (Keelson, two servers): 7.90 |\n",
		"| 700 ms | — | 70.0 ms | 100 ms | 0.10 | ✓ ≤ 0.2 × kine |\n",
		"| — | — | — | 34.0 % | — | ✓ ≥ 33.3 % (Keelson, two servers) |\n",
		"| 120 | — | 7 | 9 | 0.06 | ✓ ≤ 8, ✗ ≤ 8 (Keelson, two servers) |\n",
		" Clients are spread over two servers evenly,",
		"\nFloors met: 4. Not met: create-100.rate of keelson-postgres-two against kine-postgres, create-100.connections of keelson-postgres-two." +
			" Not measured in this run: get-100.rate against kine-postgres,",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks\n%s\nin\n%s", want, got)
		}
	}
	for _, s := range table.Servers {
		r.Failures = []Failure{{Server: s.Name}}
		if compared := s.Name != server.KinePostgresTuned; r.Judgeable() == compared {
			t.Errorf("a failure of %s spoils the run: %v, want %v", s.Name, !compared, compared)
		}
	}
}

func TestRaftMarkdown(t *testing.T) {
	table := Tables("bin", "self")[2]
	r := New(table)
	r.Rounds, r.Scale = 2, 1
	i := slices.IndexFunc(table.Loads, func(l load.Load) bool { return l.Name == "failover" })
	for _, seconds := range []float64{1, 1.25} {
		r.Add(table.Loads[i], server.EtcdRaft, load.Figures{"failover.gap": seconds, "failover.longest": 2})
		r.Add(table.Loads[i], server.KeelsonRaft, load.Figures{"failover.gap": seconds, "failover.longest": 3})
	}
	got := r.Markdown()
	for _, want := range []string{
		"\n| | etcd 3.7.3 | Keelson | Keelson ÷ etcd | floor |\n",
		"\n| time without writes after kill -9 of the leader, median of 10 kills | 1.12 s | 1.12 s | 1.00 (1.00–1.00) | ✓ ≤ etcd |\n",
		"\n| create, 1 client of the leader | — | — | — | ? ≥ etcd |\n",
		"\n| bytes written to disk per create, mean of the members, 100 clients | — | — | — | ? ≤ 1.6 × etcd |\n",
		" Each is a cluster of three members",
		"\nFloors met: 1. Not measured in this run: create-100.rate against etcd-raft,",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks\n%s\nin\n%s", want, got)
		}
	}
}

func TestJudge(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name         string
		unit         load.Unit
		floor        Floor
		ours, theirs Values
		known, met   bool
	}{
		{"more is better: above", load.PerSecond, Floor{Factor: 1.5}, Values{16}, Values{10}, true, true},
		{"more is better: equal", load.PerSecond, Floor{Factor: 1.5}, Values{15}, Values{10}, true, true},
		{"more is better: below", load.PerSecond, Floor{Factor: 1.5}, Values{14}, Values{10}, true, false},
		{"less is better: above", load.Bytes, Floor{Factor: 0.7}, Values{8}, Values{10}, true, false},
		{"less is better: below", load.Bytes, Floor{Factor: 0.7}, Values{6}, Values{10}, true, true},
		{"less is better: equal", load.Seconds, Floor{Factor: 1}, Values{6}, Values{6}, true, true},
		{"strict: equal", load.Seconds, Floor{Factor: 1, Strict: true}, Values{6}, Values{6}, true, false},
		{"the median counts", load.PerSecond, Floor{Factor: 1.5}, Values{10, 20, 20}, Values{10, 10, 10}, true, true},
		{"not measured", load.PerSecond, Floor{Factor: 1.5}, Values{16}, nil, false, false},
		{"a round failed", load.PerSecond, Floor{Factor: 1.5}, Values{16, nan}, Values{10, 10}, false, false},
	} {
		c.floor.Of, c.floor.Against = server.Keelson, server.Etcd
		row := Row{Measure: load.Measure{Unit: c.unit}, Values: map[string]Values{server.Keelson: c.ours, server.Etcd: c.theirs}}
		if v := c.floor.Judge(row); v.Known != c.known || v.Met != c.met {
			t.Errorf("%s: known %v, met %v, want %v, %v", c.name, v.Known, v.Met, c.known, c.met)
		}
	}
}

func TestJudgeByItself(t *testing.T) {
	for _, c := range []struct {
		unit load.Unit
		ours Values
		met  bool
	}{
		{load.Number, Values{7, 8, 9}, true},
		{load.Number, Values{9, 8.5, 1}, false},
		{load.Share, Values{8}, true},
		{load.Share, Values{7.9}, false},
	} {
		f := Floor{Of: server.KeelsonPostgres, Factor: 8}
		row := Row{Measure: load.Measure{Unit: c.unit}, Values: map[string]Values{server.KeelsonPostgres: c.ours}}
		if v := f.Judge(row); !v.Known || v.Met != c.met {
			t.Errorf("%v in %s: known %v, met %v, want true, %v", c.ours, c.unit, v.Known, v.Met, c.met)
		}
	}
	if v := (Floor{Of: server.KeelsonPostgres, Factor: 8}).Judge(Row{}); v.Known {
		t.Error("what was not measured is known")
	}
}

func TestAmounts(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit load.Unit
		want string
	}{
		{14062.4, load.PerSecond, "14,062/s"},
		{1234567, load.PerSecond, "1,234,567/s"},
		{999.6, load.PerSecond, "1,000/s"},
		{154, load.PerSecond, "154/s"},
		{45.26, load.PerSecond, "45.3/s"},
		{9.996, load.PerSecond, "10.0/s"},
		{0.0182, load.Seconds, "18.2 ms"},
		{3.5, load.Seconds, "3.50 s"},
		{2716, load.Bytes, "2.72 kB"},
		{581e6, load.Bytes, "581 MB"},
		{7, load.Number, "7"},
		{1.0 / 3, load.Share, "33.3 %"},
	} {
		if got := amount(c.v, c.unit); got != c.want {
			t.Errorf("amount(%v, %s) = %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestBetween(t *testing.T) {
	for _, table := range Tables("", "") {
		begin, end := table.markers()
		in := "# Title\n" + begin + "\nold\n" + end + "\nrest " + begin + "\n"
		once, err := table.between([]byte(in), "new\n")
		if err != nil {
			t.Fatal(err)
		}
		if want := "# Title\n" + begin + "\n\nnew\n\n" + end + "\nrest " + begin + "\n"; string(once) != want {
			t.Errorf("between = %q, want %q", once, want)
		}
		if twice, err := table.between(once, "new\n"); err != nil || string(twice) != string(once) {
			t.Errorf("a second time it gives %q, %v", twice, err)
		}
		for _, bad := range []string{"", begin, end, end + begin} {
			if _, err := table.between([]byte(bad), "new"); !errors.Is(err, ErrNoMarkers) {
				t.Errorf("between(%q) = %v, want ErrNoMarkers", bad, err)
			}
		}
	}
}

func TestREADME(t *testing.T) {
	tables := Tables("", "")
	path := filepath.Join(t.TempDir(), "README.md")
	if err := tables[0].CheckREADME(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(path, []byte("# Title\n<!-- bench:begin -->\n<!-- bench:end -->\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tables[1].CheckREADME(path); !errors.Is(err, ErrNoMarkers) {
		t.Errorf("with another table's markers: %v, want ErrNoMarkers", err)
	}
	all := "# Title\n<!-- bench:begin -->\n<!-- bench:end -->\n<!-- bench-postgres:begin -->\n<!-- bench-postgres:end -->\n" +
		"<!-- bench-raft:begin -->\n<!-- bench-raft:end -->\n"
	if err := os.WriteFile(path, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if err := errors.Join(table.CheckREADME(path), table.WriteREADME(path, "the table "+table.Name+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	want := "# Title\n<!-- bench:begin -->\n\nthe table sqlite\n\n<!-- bench:end -->\n" +
		"<!-- bench-postgres:begin -->\n\nthe table postgres\n\n<!-- bench-postgres:end -->\n" +
		"<!-- bench-raft:begin -->\n\nthe table raft\n\n<!-- bench-raft:end -->\n"
	if err != nil || string(got) != want {
		t.Errorf("the file is %q, %v, want %q", got, err, want)
	}
}

func TestFailedRoundsAreNullInJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	if err := results(t).WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Measures []struct {
			ID     string
			Values map[string][]*float64
		}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	kine := got.Measures[0].Values["kine"]
	if got.Measures[0].ID != "create-100.rate" || len(kine) != 2 || *kine[0] != 2000 || kine[1] != nil {
		t.Errorf("JSON has %s with kine's %v, want create-100.rate with 2000 and null", got.Measures[0].ID, kine)
	}
}

func TestFiguresMeasuredElsewhere(t *testing.T) {
	loads := load.All()
	i := slices.IndexFunc(loads, load.Load.Elsewhere)
	r, dir := New(Table{Loads: loads}), t.TempDir()
	if err := r.AddElsewhere(loads[i], dir); err != nil {
		t.Errorf("without a file: %v", err)
	}
	path := filepath.Join(dir, loads[i].Name+".json")
	if err := os.WriteFile(path, []byte(`{"memory-kube.idle": {"etcd": [3, 4], "keelson": [1, 2]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.AddElsewhere(loads[i], dir); err != nil {
		t.Fatal(err)
	}
	if got := r.row("memory-kube.idle").Values; !slices.Equal(got["etcd"], Values{3, 4}) || !slices.Equal(got["keelson"], Values{1, 2}) {
		t.Errorf("values from elsewhere: %v", got)
	}
	if err := os.WriteFile(path, []byte(`no`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.AddElsewhere(loads[i], dir); err == nil {
		t.Error("a file that is no JSON is taken")
	}
}
