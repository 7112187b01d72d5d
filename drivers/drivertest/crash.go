package drivertest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// childEnv holds the place, in a process that is to be killed.
const childEnv = "KEELSON_DRIVERTEST_PLACE"

// linePrefix tells the child's reports from other output.
const linePrefix = "drivertest: "

// crashRounds is how often a child is killed on one log.
const crashRounds = 12

// testCrash kills processes that write, at random moments: afterwards every acknowledged
// batch is there, and at most the one that was being appended, whole.
func testCrash(t *testing.T, h Harness) {
	f := newFixture(t, h)
	for round := range crashRounds {
		if err := f.l.Close(); err != nil {
			t.Fatal(err)
		}
		lines := f.runAndKill(f.rand.IntN(200))
		f.l = f.open()
		f.takeIn(lines)
		f.compare()
		f.grow(1, 3)
		if t.Failed() {
			t.Fatalf("round %d; the child's last lines: %q", round, lines[max(0, len(lines)-5):])
		}
	}
	f.finish()
}

// runAndKill starts a process that writes, kills it some lines later, and gives all that it has reported.
func (f *fixture) runAndKill(after int) []string {
	f.Helper()
	// The test function that called Run.
	root := f.Name()[:strings.LastIndexByte(f.Name(), '/')]
	parts := strings.Split(root, "/")
	for i := range parts {
		parts[i] = "^" + parts[i] + "$"
	}
	cmd := exec.Command(os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.count=1")
	cmd.Env = append(os.Environ(), childEnv+"="+f.place)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	var lines, other []string
	killed := false
	for s := bufio.NewScanner(stdout); s.Scan(); {
		line, ok := strings.CutPrefix(s.Text(), linePrefix)
		if !ok {
			other = append(other, s.Text())
			continue
		}
		lines = append(lines, line)
		if len(lines) > after && !killed {
			killed = true
			if !f.h.Shared {
				_, err := f.h.Open(f.place)
				f.wantError("open what another process has open", err, drivers.ErrLocked)
			}
			if err := cmd.Process.Kill(); err != nil {
				f.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if !killed {
		f.Fatalf("the child ended by itself: %v\n%s\n%s", err, strings.Join(other, "\n"), stderr.String())
	}
	return lines
}

// takeIn makes the model what the child's reports and the log say together.
func (f *fixture) takeIn(lines []string) {
	f.Helper()
	var doing string
	for _, line := range lines {
		if line != "done" {
			doing = line
			continue
		}
		f.apply(&f.want, doing)
		doing = ""
	}
	if doing == "" || f.same(&f.want) {
		return
	}
	// Acknowledged or not, it is there: then all of it.
	f.apply(&f.want, doing)
}

// same compares the log's extent and rows with a model.
func (f *fixture) same(want *model) bool {
	if f.bounds() != want.bounds() {
		return false
	}
	got, err := scan(f.Context(), f.l, drivers.ScanOptions{})
	return err == nil && equalEntries(got, want.entries(drivers.ScanOptions{})) == nil
}

// apply does to a model what a line of the child's says.
func (f *fixture) apply(m *model, line string) {
	f.Helper()
	op, arg, _ := strings.Cut(line, " ")
	switch op {
	case "append":
		var id drivers.BatchID
		if _, err := hex.Decode(id[:], []byte(arg)); err != nil {
			f.Fatalf("%q: %v", line, err)
		}
		m.append(batchOf(id))
	case "scrub":
		var positions []int64
		for r := strings.NewReader(arg); r.Len() > 0; {
			var p int64
			if _, err := fmt.Fscan(r, &p); err != nil {
				f.Fatalf("%q: %v", line, err)
			}
			positions = append(positions, p)
		}
		m.scrub(positions)
	case "defragment":
	default:
		f.Fatalf("the child reports %q", line)
	}
}

// child writes until it is killed, and reports what it does before and after.
func child(t *testing.T, h Harness, place string) {
	l, err := h.Open(place)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	bounds, err := l.ReadIndex(context.Background())
	if err != nil {
		t.Fatalf("read index: %v", err)
	}
	w := childWriter{l: l, out: os.Stdout, end: bounds.End, rand: rand.New(rand.NewPCG(rand.Uint64(), 0))}
	for {
		if err := w.step(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

type childWriter struct {
	l    drivers.Log
	out  io.Writer
	end  drivers.End
	rand *rand.Rand
}

func (w *childWriter) step(ctx context.Context) error {
	switch k := w.rand.IntN(100); {
	case k < 15 && w.end.Position > 1:
		return w.scrub(ctx)
	case k < 17:
		if d, ok := w.l.(drivers.Defragmenter); ok {
			return w.report("defragment", func() error { return d.Defragment(ctx) })
		}
	}
	b := newBatch(w.rand, 1+w.rand.IntN(10), 200)
	switch w.rand.IntN(30) {
	case 0:
		b = newBatch(w.rand, 1000, 50)
	case 1:
		b = newBatch(w.rand, 3, 200_000)
	}
	if err := w.report(fmt.Sprintf("append %x", b.ID), func() error { return w.l.Append(ctx, w.end, b) }); err != nil {
		return err
	}
	w.end = drivers.End{Position: w.end.Position + int64(len(b.Entries)), Batch: b.ID}
	return nil
}

func (w *childWriter) scrub(ctx context.Context) error {
	var positions []int64
	first := 1 + w.rand.Int64N(w.end.Position-1)
	for p := first; p < min(w.end.Position, first+300); p += 1 + w.rand.Int64N(3) {
		positions = append(positions, p)
	}
	slices.Sort(positions)
	line := strings.Trim(fmt.Sprint(positions), "[]")
	return w.report("scrub "+line, func() error { return w.l.Scrub(ctx, positions) })
}

// report says what is about to be done, does it, and says that it was done.
func (w *childWriter) report(what string, do func() error) error {
	if _, err := fmt.Fprintln(w.out, linePrefix+what); err != nil {
		return err
	}
	if err := do(); err != nil {
		return errors.Join(fmt.Errorf("%s", what), err)
	}
	_, err := fmt.Fprintln(w.out, linePrefix+"done")
	return err
}
