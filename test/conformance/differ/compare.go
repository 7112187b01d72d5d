package differ

import (
	"context"
	"fmt"
	"strings"

	"github.com/keelson-io/keelson/test/conformance/script"
	"golang.org/x/sync/errgroup"
)

// Start starts an empty server. The returned function ends it.
type Start func(ctx context.Context) (script.Server, func(), error)

// Pair is the two sides of a comparison.
type Pair struct{ Etcd, Tested Start }

// Result is what a script gave on both sides, up to the first difference.
type Result struct {
	Commands     []string
	Etcd, Tested []string // answers, as many as were played
	// At is the index of the first command whose answers differ, or -1.
	At int
	// Step is the index of its step.
	Step int
}

// Compare plays the steps on fresh servers of both sides.
func (p Pair) Compare(ctx context.Context, steps []Step) (*Result, error) {
	r := &Result{At: -1}
	var stepOf []int
	for i, s := range steps {
		for _, c := range s {
			r.Commands = append(r.Commands, c)
			stepOf = append(stepOf, i)
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { r.Etcd, err = play(gctx, p.Etcd, r.Commands); return err })
	group.Go(func() (err error) { r.Tested, err = play(gctx, p.Tested, r.Commands); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range r.Commands {
		if r.Etcd[i] != r.Tested[i] || strings.Contains(r.Etcd[i], "BREACH") {
			r.At, r.Step = i, stepOf[i]
			break
		}
	}
	return r, nil
}

func play(ctx context.Context, start Start, commands []string) ([]string, error) {
	server, stop, err := start(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	player, err := script.Open(ctx, server)
	if err != nil {
		return nil, err
	}
	defer player.Close()
	answers := make([]string, 0, len(commands))
	for _, c := range commands {
		answer, err := player.Do(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("differ: %s: %w", c, err)
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// Script writes the result as a script that can be replayed: etcd's answers,
// and where they differ the other server's as a comment above them.
func (r *Result) Script() string {
	var out strings.Builder
	for i, c := range r.Commands {
		if r.Etcd[i] != r.Tested[i] {
			out.WriteString("# The server under test answers the next command differently:\n")
			for _, line := range differing(r.Etcd[i], r.Tested[i]) {
				out.WriteString("#   " + line + "\n")
			}
		}
		fmt.Fprintf(&out, "%s\n----\n%s\n", c, r.Etcd[i])
		if i == r.At {
			break
		}
	}
	return out.String()
}

// differing returns the lines of got that want does not have there, and the
// lines of want that they stand for.
func differing(want, got string) []string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var lines []string
	for i := range max(len(w), len(g)) {
		a, b := lineAt(w, i), lineAt(g, i)
		if a == b {
			continue
		}
		lines = append(lines, fmt.Sprintf("line %d: %s", i+1, b))
		if len(lines) == 20 {
			return append(lines, "and more")
		}
	}
	return lines
}

func lineAt(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(no line)"
}
