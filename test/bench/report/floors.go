package report

import (
	"fmt"

	"github.com/keelson-io/keelson/test/bench/load"
	"github.com/keelson-io/keelson/test/bench/server"
	"github.com/keelson-io/keelson/test/bench/stats"
)

// Floor is what Keelson must reach in one measure, relative to another server in the same run or by itself.
type Floor struct {
	// Measure is the figure's ID.
	Measure string
	// Of names the server that must reach it, which is one of Keelson's.
	Of string
	// Against names the other server, empty where there is none.
	Against string
	// Factor bounds Keelson's figure divided by the other's, or the figure itself where there is no other: from below where
	// more is better, from above where less is.
	Factor float64
	// Strict says that the bound itself is not enough.
	Strict bool
}

// sqliteFloors are those of Keelson on SQLite.
func sqliteFloors() []Floor {
	floors := []Floor{
		{Measure: "create-100.rate", Against: server.Etcd, Factor: 1.5},
		{Measure: "create-100.rate", Against: server.KineFull, Factor: 10},
		{Measure: "create-100.p99", Against: server.Etcd, Factor: 1, Strict: true},
		{Measure: "create-1.rate", Against: server.Etcd, Factor: 1.2},
		{Measure: "put-1000.rate", Against: server.Etcd, Factor: 1.4},
		{Measure: "get-100.rate", Against: server.Etcd, Factor: 1.4},
		{Measure: "watch-10.events", Against: server.Etcd, Factor: 1.7},
		{Measure: "watch-1000.rate", Against: server.Etcd, Factor: 1.5},
		{Measure: "list.unpaged", Against: server.Etcd, Factor: 1},
		{Measure: "list.paged", Against: server.Etcd, Factor: 1},
		{Measure: "list.keys-only", Against: server.Etcd, Factor: 2},
		{Measure: "list.count", Against: server.Etcd, Factor: 4},
		{Measure: "memory.10k", Against: server.Etcd, Factor: 1, Strict: true},
		{Measure: "memory-kube.idle", Against: server.Etcd, Factor: 1, Strict: true},
		{Measure: "restart.memory", Against: server.Etcd, Factor: 0.7},
		{Measure: "disk-100.put", Against: server.Etcd, Factor: 1.2},
		{Measure: "disk-1.put", Against: server.Etcd, Factor: 2},
		{Measure: "restart.serving", Against: server.Etcd, Factor: 1},
	}
	for i := range floors {
		floors[i].Of = server.Keelson
	}
	return floors
}

// postgresFloors are those of Keelson on Postgres.
func postgresFloors() []Floor {
	const one, two, kine = server.KeelsonPostgres, server.KeelsonPostgresTwo, server.KinePostgres
	return []Floor{
		{Measure: "create-100.rate", Of: one, Against: kine, Factor: 12},
		{Measure: "create-100.rate", Of: two, Against: kine, Factor: 8},
		{Measure: "create-100.p99", Of: one, Against: kine, Factor: 0.2},
		{Measure: "create-100.share", Of: two, Factor: 1.0 / 3},
		{Measure: "create-100.connections", Of: one, Factor: 8},
		{Measure: "create-100.connections", Of: two, Factor: 8},
		{Measure: "get-100.rate", Of: one, Against: kine, Factor: 8},
		{Measure: "watch-10.events", Of: two, Against: kine, Factor: 5},
		{Measure: "list.unpaged", Of: one, Against: kine, Factor: 1.5},
		{Measure: "list.count", Of: one, Against: kine, Factor: 20},
	}
}

// raftFloors are those of Keelson's clusters.
func raftFloors() []Floor {
	floors := []Floor{
		{Measure: "create-100.rate", Factor: 1.4},
		{Measure: "create-100-all.rate", Factor: 1.2},
		{Measure: "create-1.rate", Factor: 1},
		{Measure: "get-100.rate", Factor: 1.3},
		{Measure: "get-100-follower.rate", Factor: 1.3},
		{Measure: "get-100-serializable.rate", Factor: 1.3},
		{Measure: "watch-10.events", Factor: 1.5},
		{Measure: "failover.gap", Factor: 1},
		{Measure: "memory.10k-largest", Factor: 1, Strict: true},
		{Measure: "memory.10k-mean", Factor: 1, Strict: true},
		{Measure: "memory.1m-largest", Factor: 1, Strict: true},
		{Measure: "memory.1m-mean", Factor: 1, Strict: true},
		{Measure: "disk-100.create", Factor: 1.6},
		{Measure: "disk-1.create", Factor: 1.2},
	}
	for i := range floors {
		floors[i].Of, floors[i].Against = server.KeelsonRaft, server.EtcdRaft
	}
	return floors
}

// Verdict says how a floor was kept.
type Verdict struct {
	Floor Floor        `json:"floor"`
	Ratio stats.Spread `json:"ratio"`
	// Known is false when one of the two was not measured or failed in a round; then Met means nothing.
	Known bool `json:"known"`
	Met   bool `json:"met"`
}

// Judge compares the floor with a row's figures by the median of the ratios, or of the figures where there is no other.
func (f Floor) Judge(row Row) Verdict {
	v := Verdict{Floor: f}
	ours, theirs := row.Values[f.Of], row.Values[f.Against]
	if !ours.whole() || f.Against != "" && !theirs.whole() {
		return v
	}
	v.Ratio = stats.Of(ours)
	if f.Against != "" {
		v.Ratio = stats.Ratio(ours, theirs)
	}
	v.Known = v.Ratio.N > 0
	switch r := v.Ratio.Median; {
	case !v.Known:
	case row.Unit.MoreIsBetter():
		v.Met = r > f.Factor || (r == f.Factor && !f.Strict)
	default:
		v.Met = r < f.Factor || (r == f.Factor && !f.Strict)
	}
	return v
}

// words says the floor as a reader wants it: "≥ 1.5 × etcd", "≤ 8". The title is the other server's.
func (f Floor) words(unit load.Unit, title string) string {
	sign := "≤"
	switch {
	case unit.MoreIsBetter() && f.Strict:
		sign = ">"
	case unit.MoreIsBetter():
		sign = "≥"
	case f.Strict:
		sign = "<"
	}
	switch {
	case f.Against == "":
		return fmt.Sprintf("%s %s", sign, amount(f.Factor, unit))
	case f.Factor == 1:
		return fmt.Sprintf("%s %s", sign, title)
	}
	return fmt.Sprintf("%s %g × %s", sign, f.Factor, title)
}
