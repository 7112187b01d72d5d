package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keelson-io/keelson/test/bench/load"
)

// Values are a server's figures of one measure, one for each round; NaN where a round has failed.
type Values []float64

// MarshalJSON writes a failed round as null.
func (v Values) MarshalJSON() ([]byte, error) {
	out := make([]*float64, len(v))
	for i := range v {
		if !math.IsNaN(v[i]) {
			out[i] = &v[i]
		}
	}
	return json.Marshal(out)
}

// whole says that there are figures and no round has failed.
func (v Values) whole() bool { return len(v) > 0 && !slices.ContainsFunc(v, math.IsNaN) }

// Row is one measure with the figures of all servers, by name.
type Row struct {
	load.Measure
	Values map[string]Values
}

// Failure is a run that gave no figures.
type Failure struct {
	Round  int    `json:"round"`
	Load   string `json:"load"`
	Server string `json:"server"`
	Error  string `json:"error"`
}

// Results are everything one session has measured for a table.
type Results struct {
	Table    Table
	Date     time.Time
	Machine  Machine
	Software string // what else the figures depend on, a sentence or none
	Rounds   int
	Scale    float64
	Rows     []Row
	Failures []Failure
}

// New makes empty results with a row for every measure of the table's loads.
func New(t Table) *Results {
	r := &Results{Table: t}
	for _, l := range t.Loads {
		for _, m := range l.Measures {
			r.Rows = append(r.Rows, Row{Measure: m, Values: make(map[string]Values)})
		}
	}
	return r
}

// Add takes the figures of one run of a load, nil for one that has failed.
func (r *Results) Add(l load.Load, serverName string, figures load.Figures) {
	for _, m := range l.Measures {
		value, ok := figures[m.ID]
		if !ok && figures != nil {
			continue // it has no meaning for this server
		}
		if !ok {
			value = math.NaN()
		}
		row := r.row(m.ID)
		row.Values[serverName] = append(row.Values[serverName], value)
	}
}

func (r *Results) row(id string) *Row {
	i := slices.IndexFunc(r.Rows, func(row Row) bool { return row.ID == id })
	if i < 0 {
		panic("report: figures for a measure that the results were not made for: " + id)
	}
	return &r.Rows[i]
}

// AddElsewhere takes the figures of a load that another test runs: dir/<load>.json, which holds for each measure and
// server a list of values, {"memory-kube.idle": {"etcd": [1.0], "keelson": [1.0]}}. That it is missing is no error.
func (r *Results) AddElsewhere(l load.Load, dir string) error {
	path := filepath.Join(dir, l.Name+".json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read figures measured elsewhere: %w", err)
	}
	var found map[string]map[string]Values
	if err := json.Unmarshal(data, &found); err != nil {
		return fmt.Errorf("read figures of %s: %w", path, err)
	}
	for _, m := range l.Measures {
		for name, values := range found[m.ID] {
			r.row(m.ID).Values[name] = values
		}
	}
	return nil
}

// Judgeable says that none of the runs that Keelson is judged by has failed: neither its own nor those of what it is
// measured by first of all. What others fail at is a finding.
func (r *Results) Judgeable() bool {
	return !slices.ContainsFunc(r.Failures, func(f Failure) bool {
		return f.Server == r.Table.Reference || slices.ContainsFunc(r.Table.Floors, func(fl Floor) bool { return fl.Of == f.Server })
	})
}

// Verdicts judges every floor whose measure was part of the session.
func (r *Results) Verdicts() []Verdict {
	var out []Verdict
	for _, row := range r.Rows {
		out = append(out, r.verdicts(row)...)
	}
	return out
}

func (r *Results) verdicts(row Row) []Verdict {
	var out []Verdict
	for _, f := range r.Table.Floors {
		if f.Measure == row.ID {
			out = append(out, f.Judge(row))
		}
	}
	return out
}
