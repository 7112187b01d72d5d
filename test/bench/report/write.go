package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/keelson-io/keelson/test/bench/load"
)

// ErrNoMarkers says that a file has no place for the table.
var ErrNoMarkers = errors.New("report: the table's two markers are not in the file")

// WriteJSON writes all results, with every round's figure.
func (r *Results) WriteJSON(path string) error {
	type measure struct {
		ID     string            `json:"id"`
		Title  string            `json:"title,omitempty"`
		Unit   load.Unit         `json:"unit"`
		Values map[string]Values `json:"values"`
	}
	out := struct {
		Date     time.Time `json:"date"`
		Machine  Machine   `json:"machine"`
		Software string    `json:"software,omitempty"`
		Rounds   int       `json:"rounds"`
		Scale    float64   `json:"scale"`
		Measures []measure `json:"measures"`
		Floors   []Verdict `json:"floors"`
		Failures []Failure `json:"failures"`
	}{Date: r.Date, Machine: r.Machine, Software: r.Software, Rounds: r.Rounds, Scale: r.Scale, Floors: r.Verdicts(), Failures: r.Failures}
	for _, row := range r.Rows {
		out.Measures = append(out.Measures, measure{row.ID, row.Title, row.Unit, row.Values})
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// markers are the lines between which the table stands in a README.
func (t Table) markers() (begin, end string) {
	return "<!-- " + t.Marker + ":begin -->", "<!-- " + t.Marker + ":end -->"
}

// CheckREADME says whether the file at path has a place for the table, before half an hour is spent on it.
func (t Table) CheckREADME(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("open the file for the table: %w", err)
	}
	if _, err = t.between(data, ""); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// WriteREADME puts text between the markers of the file at path.
func (t Table) WriteREADME(path, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("open the file for the table: %w", err)
	}
	out, err := t.between(data, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o644)
}

// between replaces what stands between the markers of data by text.
func (t Table) between(data []byte, text string) ([]byte, error) {
	first, last := t.markers()
	begin := bytes.Index(data, []byte(first))
	if begin < 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoMarkers, first)
	}
	begin += len(first)
	length := bytes.Index(data[begin:], []byte(last))
	if length < 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoMarkers, last)
	}
	var out bytes.Buffer
	out.Write(data[:begin])
	out.WriteString("\n\n" + text + "\n")
	out.Write(data[begin+length:])
	return out.Bytes(), nil
}
