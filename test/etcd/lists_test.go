package etcd

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// all in a cell of RUN.md stands for all cases of a test.
const all = "all"

// lists are RUN.md and LEFT_OUT.md, as a run has them.
type lists struct {
	name    string            // the run's
	run     map[string]string // tests, and the pattern that chooses cases, or all
	leftOut map[string]string // tests, or some cases of one after a slash, and the reason
}

func readLists(t *testing.T, name string) lists {
	t.Helper()
	l := lists{name: name, run: map[string]string{}, leftOut: map[string]string{}}
	column := map[string]int{"one": 1, "cluster": 2}[name]
	for _, row := range readTable(t, "RUN.md") {
		if cell := row[column]; cell != "" {
			l.run[row[0]] = cell
		}
	}
	for _, row := range readTable(t, "LEFT_OUT.md") {
		switch row[1] {
		case name, "both":
			l.leftOut[row[0]] = row[2]
		case "one", "cluster":
		default:
			t.Errorf("LEFT_OUT.md leaves %s out of %q", row[0], row[1])
		}
	}
	return l
}

// readTable reads the rows of a table in Markdown: a test or some of its cases, and two cells.
func readTable(t *testing.T, file string) [][3]string {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][3]string
	seen := map[string]bool{}
	for line := range strings.Lines(string(src)) {
		if !strings.HasPrefix(line, "| Test") {
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			t.Fatalf("%s: three cells are wanted in %q", file, line)
		}
		row := [3]string{strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])}
		if seen[row[0]] {
			t.Errorf("%s names %s twice", file, row[0])
		}
		seen[row[0]] = true
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		t.Fatalf("%s is empty", file)
	}
	return rows
}

// faults tells of tests that are in no list, in both, or in a list only, and of cases that are left out without a reason.
func (l lists) faults(upstream []string) []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, l.name+": "+fmt.Sprintf(format, args...)) }
	for _, test := range upstream {
		cases, isRun := l.run[test]
		_, isLeftOut := l.leftOut[test]
		switch {
		case isRun && isLeftOut:
			fault("%s is both in RUN.md and in LEFT_OUT.md", test)
		case !isRun && !isLeftOut:
			fault("etcd has %s: put it into RUN.md, or into LEFT_OUT.md with the reason", test)
		case isRun && l.name == "cluster" && (cases != all) != l.leavesOutCases(test):
			fault("RUN.md has %q of %s: LEFT_OUT.md says which cases are left out, where some are", cases, test)
		}
	}
	for name := range l.run {
		if !slices.Contains(upstream, name) {
			fault("etcd has no %s", name)
		}
	}
	for name, reason := range l.leftOut {
		test, cases, _ := strings.Cut(name, "/")
		switch {
		case !slices.Contains(upstream, test):
			fault("etcd has no %s", test)
		case cases != "" && l.run[test] == "":
			fault("LEFT_OUT.md has %s, and RUN.md does not have %s", name, test)
		case reason == "":
			fault("LEFT_OUT.md gives no reason for %s", name)
		}
	}
	return faults
}

func (l lists) leavesOutCases(test string) bool {
	for name := range l.leftOut {
		if strings.HasPrefix(name, test+"/") {
			return true
		}
	}
	return false
}

// TestCheckLists proves that nothing can be left out in silence.
func TestCheckLists(t *testing.T) {
	type table = map[string]string
	for name, wrong := range map[string]struct {
		upstream     []string
		run, leftOut table
	}{
		"in no list":         {[]string{"TestA", "TestB"}, table{"TestA": all}, table{}},
		"in both":            {[]string{"TestA"}, table{"TestA": all}, table{"TestA": "why"}},
		"no reason":          {[]string{"TestA"}, table{}, table{"TestA": ""}},
		"gone":               {[]string{"TestA"}, table{"TestA": all, "TestB": all}, table{}},
		"gone as well":       {[]string{"TestA"}, table{"TestA": all}, table{"TestB": "why"}},
		"some cases":         {[]string{"TestA"}, table{"TestA": "One"}, table{}},
		"all and some cases": {[]string{"TestA"}, table{"TestA": all}, table{"TestA/Two": "why"}},
		"cases of no test":   {[]string{"TestA"}, table{}, table{"TestA": "why", "TestA/Two": "why"}},
		"cases, no reason":   {[]string{"TestA"}, table{"TestA": "One"}, table{"TestA/Two": ""}},
	} {
		if found := (lists{"cluster", wrong.run, wrong.leftOut}).faults(wrong.upstream); len(found) != 1 {
			t.Errorf("%s: one fault is there, found are %q", name, found)
		}
	}
	right := lists{"cluster", table{"TestA": "One", "TestB": all}, table{"TestA/Two": "why", "TestC": "why"}}
	if found := right.faults([]string{"TestA", "TestB", "TestC"}); len(found) != 0 {
		t.Errorf("lists without a fault: %q", found)
	}
}
