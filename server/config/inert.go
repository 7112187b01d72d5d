package config

import "time"

// An inert flag is one of etcd's that cannot mean anything here. Its value is checked and forgotten.
type inertFlag struct {
	name string
	why  string
	kind inertKind
}

type inertKind int

const (
	kindText inertKind = iota
	kindYes
	kindUint
	kindInt
	kindDuration
	kindV2Deprecation
)

func inertFlags() []inertFlag {
	const (
		files   = "there are no such files here"
		bbolt   = "the data are not kept in bbolt"
		tracing = "there is no distributed tracing"
		v2      = "there is no version 2 store"
	)
	return []inertFlag{
		{"max-snapshots", files, kindUint},
		{"max-wals", files, kindUint},
		{"backend-bbolt-freelist-type", bbolt, kindText},
		{"backend-batch-interval", "requests that wait are committed together, without a timer", kindDuration},
		{"backend-batch-limit", "requests that wait are committed together, without a timer", kindInt},
		{"bootstrap-defrag-threshold-megabytes", "free space is given back while serving", kindUint},
		{"memory-mlock", "no file is mapped into memory that could be locked there", kindYes},
		{"initial-election-tick-advance", "elections have no ticks to skip", kindYes},
		{"downgrade-check-time", "there is no downgrade to watch over", kindDuration},
		{"v2-deprecation", v2, kindV2Deprecation},
		{"enable-distributed-tracing", tracing, kindYes},
		{"distributed-tracing-address", tracing, kindText},
		{"distributed-tracing-service-name", tracing, kindText},
		{"distributed-tracing-instance-id", tracing, kindText},
		{"distributed-tracing-sampling-rate", tracing, kindInt},
	}
}

func (f *flags) inert() {
	f.begin("Accepted, as etcd has them, and without effect")
	for _, in := range inertFlags() {
		usage := "No effect: " + in.why + "."
		switch in.kind {
		case kindText:
			f.text(new(string), in.name, usage)
		case kindYes:
			f.yes(new(bool), in.name, usage)
		case kindUint:
			f.uint(new(uint), in.name, usage)
		case kindInt:
			f.int(new(int), in.name, usage)
		case kindDuration:
			f.duration(new(time.Duration), in.name, usage)
		case kindV2Deprecation:
			f.value(choices{[]string{"write-only", "write-only-skip-check", "write-only-drop-data", "gone"}}, in.name, usage)
		}
	}
}

// inertWarnings are the warnings for the inert flags among those that were given.
func inertWarnings(given map[string]bool) []Warning {
	var ws []Warning
	for _, in := range inertFlags() {
		if given[in.name] {
			ws = append(ws, Warning{Flag: in.name, Text: "option has no effect: " + in.why})
		}
	}
	return ws
}

// forgotten are flags so old that etcd takes them without a word.
func (f *flags) forgotten() {
	for _, name := range []string{
		"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force",
		"max-result-buffer", "max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout",
		"retry-interval", "snapshot", "v", "vv", "test.coverprofile", "test.outputdir",
	} {
		f.Var(forgotten{}, name, "")
	}
}

type forgotten struct{}

func (forgotten) String() string   { return "" }
func (forgotten) Set(string) error { return nil }
func (forgotten) IsBoolFlag() bool { return true }
