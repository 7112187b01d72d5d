package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keelson-io/keelson/test/bench/load"
	"github.com/keelson-io/keelson/test/bench/server"
	"github.com/keelson-io/keelson/test/bench/stats"
)

const (
	none   = "—"
	failed = "failed"
)

// Markdown gives the table with the machine above and what fell short below.
func (r *Results) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", r.Machine.sentence(r.Date))
	if r.Software != "" {
		fmt.Fprintf(&b, "%s\n\n", r.Software)
	}
	if r.Scale != 1 {
		fmt.Fprintf(&b, "Durations and numbers of keys were multiplied by %g: these figures are for a quick look alone.\n\n", r.Scale)
	}
	b.WriteString("| |")
	rule := "|---|"
	for _, s := range r.Table.Servers {
		fmt.Fprintf(&b, " %s |", s.Title)
		rule += "---:|"
	}
	fmt.Fprintf(&b, " %s ÷ %s | floor |\n%s---:|---|\n", r.title(r.Table.Ours), r.title(r.Table.Reference), rule)
	for _, row := range r.Rows {
		if row.Title != "" {
			r.line(&b, row)
		}
	}
	fmt.Fprintf(&b, "\nValues of 1 KiB where nothing else is said. Medians; rounds: %d. A ratio is the median of the rounds' ratios, with the smallest and the largest.%s\n", r.Rounds, r.Table.Note)
	r.shortfalls(&b)
	return b.String()
}

func (r *Results) line(b *strings.Builder, row Row) {
	fmt.Fprintf(b, "| %s |", row.Title)
	for _, s := range r.Table.Servers {
		fmt.Fprintf(b, " %s |", cell(row, s.Name))
	}
	ratio := none
	if ours, theirs := row.Values[r.Table.Ours], row.Values[r.Table.Reference]; ours.whole() && theirs.whole() {
		ratio = spread(stats.Ratio(ours, theirs))
	}
	fmt.Fprintf(b, " %s | %s |\n", ratio, r.floors(row))
}

func cell(row Row, name string) string {
	values := row.Values[name]
	switch {
	case len(values) == 0:
		return none
	case !values.whole():
		return failed
	}
	return amount(stats.Of(values).Median, row.Unit)
}

// floors says for each floor of the row whether it is met, with the ratio where it is not the one beside it.
func (r *Results) floors(row Row) string {
	var parts []string
	for _, v := range r.verdicts(row) {
		text := v.Floor.words(row.Unit, r.title(v.Floor.Against))
		switch {
		case !v.Known:
			text = "? " + text
		case v.Met:
			text = "✓ " + text
		default:
			text = "✗ " + text
		}
		if v.Floor.Of != r.Table.Ours {
			text += " (" + r.title(v.Floor.Of) + ")"
		}
		if v.Known && v.Floor.Against != "" && (v.Floor.Against != r.Table.Reference || v.Floor.Of != r.Table.Ours) {
			text += ": " + spread(v.Ratio)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// title is a server's title; what the table compares with first of all goes by its name alone, without version.
func (r *Results) title(name string) string {
	i := slices.IndexFunc(r.Table.Servers, func(s server.Spec) bool { return s.Name == name })
	if i < 0 {
		return name
	}
	title := r.Table.Servers[i].Title
	if name == r.Table.Reference {
		title, _, _ = strings.Cut(title, " ")
	}
	return title
}

func (r *Results) shortfalls(b *strings.Builder) {
	met, unmet, unknown := 0, []string(nil), []string(nil)
	for _, v := range r.Verdicts() {
		switch name := r.name(v.Floor); {
		case !v.Known:
			unknown = append(unknown, name)
		case v.Met:
			met++
		default:
			unmet = append(unmet, name)
		}
	}
	fmt.Fprintf(b, "Floors met: %d.", met)
	if len(unmet) > 0 {
		fmt.Fprintf(b, " Not met: %s.", strings.Join(unmet, ", "))
	}
	if len(unknown) > 0 {
		fmt.Fprintf(b, " Not measured in this run: %s.", strings.Join(unknown, ", "))
	}
	b.WriteString("\n")
	for _, f := range r.Failures {
		text := strings.ReplaceAll(f.Error, "\n", " ")
		fmt.Fprintf(b, "\nFailed in round %d: %s on %s: %s\n", f.Round, f.Load, f.Server, text)
	}
}

// name tells a floor from the others of the table.
func (r *Results) name(f Floor) string {
	name := f.Measure
	if f.Of != r.Table.Ours {
		name += " of " + f.Of
	}
	if f.Against != "" {
		name += " against " + f.Against
	}
	return name
}

func spread(s stats.Spread) string {
	if s.N == 0 {
		return none
	}
	if s.N == 1 {
		return fmt.Sprintf("%.2f", s.Median)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max)
}

// amount writes a figure with its unit, to three digits or so.
func amount(v float64, unit load.Unit) string {
	switch unit {
	case load.Seconds:
		if v < 1 {
			return digits(v*1e3) + " ms"
		}
		return digits(v) + " s"
	case load.Bytes:
		if v < 1e6 {
			return digits(v/1e3) + " kB"
		}
		return digits(v/1e6) + " MB"
	case load.Number:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case load.Share:
		return digits(v*100) + " %"
	default:
		return digits(v) + "/s"
	}
}

// digits writes two digits after the point below 10, one below 100, and thousands apart above.
func digits(v float64) string {
	switch {
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
