package load

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keelson-io/keelson/test/bench/server"
)

// ErrWrong says that a server answered without an error, but not what it should have.
var ErrWrong = errors.New("load: wrong answer")

// Unit is what a figure counts.
type Unit string

// The units of figures.
const (
	PerSecond Unit = "/s"
	Seconds   Unit = "s"
	Bytes     Unit = "B"
	Number    Unit = "1"
	Share     Unit = "%" // of 1
)

// MoreIsBetter says which way a figure is good.
func (u Unit) MoreIsBetter() bool { return u == PerSecond || u == Share }

// Measure is one figure of a load.
type Measure struct {
	// ID names the figure in results and floors.
	ID string
	// Title is its line in tables; a measure without one is in the JSON alone.
	Title string
	// Unit is its unit, which says whether more is better.
	Unit Unit
}

// Figures are what one run of a load gives, by Measure.ID.
type Figures map[string]float64

// Load is one way to work on a server.
type Load struct {
	// Name selects the load on the command line.
	Name string
	// Measures are the figures it gives.
	Measures []Measure
	// Timeout bounds one run of it, with starting the server.
	Timeout time.Duration
	// Without gives the reason why a server, by name, is left out.
	Without map[string]string
	// Shares are the IDs of those measures that have a meaning only where several servers share the data.
	Shares []string
	// run is nil when the figures come from elsewhere (see Elsewhere).
	run func(ctx context.Context, r *Run) (Figures, error)
}

// Elsewhere says that this load is not run here: its figures are read from a file that another test has left.
func (l Load) Elsewhere() bool { return l.run == nil }

// gives says whether a run of the load on the server has the measure.
func (l Load) gives(m Measure, spec server.Spec) bool {
	return spec.Processes > 1 || !slices.Contains(l.Shares, m.ID)
}

const (
	noMemory = "keeps nothing but the loads' keys"
	noDisk   = "writes nothing"
	slowFill = "1,000,000 creates take it more than ten minutes"
)

// All lists the loads in the order in which they are run and shown.
func All() []Load {
	const minute = time.Minute
	loads := []Load{
		{Name: "create-100", Timeout: minute, run: create("create-100", 100, everywhere), Measures: []Measure{
			{"create-100.rate", "create, 100 clients", PerSecond},
			{"create-100.p99", "the same, p99 of the latency", Seconds},
		}},
		{Name: "create-1", Timeout: minute, run: create("create-1", 1, everywhere), Measures: []Measure{
			{"create-1.rate", "create, 1 client", PerSecond},
			{"create-1.p99", "", Seconds},
		}},
		{Name: "put-1000", Timeout: minute, run: put, Measures: []Measure{
			{"put-1000.rate", "put of 256 B, 1,000 clients", PerSecond},
			{"put-1000.p99", "", Seconds},
		}},
		{Name: "get-100", Timeout: minute, run: get("get-100", everywhere), Measures: []Measure{
			{"get-100.rate", "get, 100 clients", PerSecond},
			{"get-100.p99", "", Seconds},
		}},
		{Name: "watch-10", Timeout: 2 * minute, run: watchUpdates, Measures: []Measure{
			{"watch-10.events", "update, 10 watchers of the prefix with prev_kv: events delivered", PerSecond},
			{"watch-10.writes", "", PerSecond},
		}},
		{Name: "watch-1000", Timeout: 2 * minute, run: watchPrefixes, Measures: []Measure{
			{"watch-1000.rate", "create under 1,000 prefixes with a watcher each", PerSecond},
			{"watch-1000.lag", "", Seconds},
		}},
		{Name: "list", Timeout: 2 * minute, run: list, Measures: []Measure{
			{"list.unpaged", "list of 10,000 keys, unpaged", PerSecond},
			{"list.paged", "the same, pages of 500", PerSecond},
			{"list.keys-only", "the same, keys only", PerSecond},
			{"list.count", "the same, count only", PerSecond},
		}},
		{Name: "memory", Timeout: minute, run: memory, Without: map[string]string{"null": noMemory}, Measures: []Measure{
			{"memory.10k", "resident memory after 10,000 creates", Bytes},
		}},
		{Name: "memory-kube", Without: map[string]string{"null": noMemory}, Measures: []Measure{
			{"memory-kube.idle", "resident memory, idle under kube-apiserver", Bytes},
		}},
	}
	return append(loads, diskAndRestart()...)
}

func diskAndRestart() []Load {
	const minute = time.Minute
	return []Load{
		{Name: "disk-100", Timeout: 2 * minute, run: disk(diskWrites{100, "put", (*writes).put}), Without: map[string]string{"null": noDisk}, Measures: []Measure{
			{"disk-100.put", "bytes written to disk per put, 100 clients", Bytes},
			{"disk-100.put-and-stop", "", Bytes},
		}},
		{Name: "disk-1", Timeout: 2 * minute, run: disk(diskWrites{1, "put", (*writes).put}), Without: map[string]string{"null": noDisk}, Measures: []Measure{
			{"disk-1.put", "the same, 1 client", Bytes},
			{"disk-1.put-and-stop", "", Bytes},
		}},
		{
			Name: "restart", Timeout: 5 * minute, run: restart,
			Without: map[string]string{"null": noDisk, "kine": slowFill, "kine-full": slowFill},
			Measures: []Measure{
				{"restart.memory", "resident memory after a restart with 1,000,000 keys of 128 B", Bytes},
				{"restart.serving", "from exec to serving with them", Seconds},
			},
		},
	}
}
