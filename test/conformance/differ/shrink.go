package differ

import (
	"context"
	"regexp"
	"slices"
	"strings"
)

// Shrink takes away what a difference does not need: whole steps first, then
// lines of transactions and distance in relative revisions, then steps again. It
// plays at most tries scripts, each on fresh servers, and returns the result of
// the shortest one that still shows a difference in the same kind of command.
func (p Pair) Shrink(ctx context.Context, steps []Step, found *Result, tries int) (*Result, error) {
	s := &shrinker{
		pair: p, steps: slices.Clone(steps[:found.Step+1]), best: found, left: tries,
		kind: kind(found.Commands[found.At]),
	}
	for _, pass := range []func(context.Context) error{s.whole, s.lines, s.distances, s.whole} {
		if err := pass(ctx); err != nil {
			return s.best, err
		}
	}
	return s.best, nil
}

// kind is the first word of a command.
func kind(command string) string {
	name, _, _ := strings.Cut(strings.SplitN(command, "\n", 2)[0], " ")
	return name
}

// whole takes away runs of steps, longer ones first, from the end.
func (s *shrinker) whole(ctx context.Context) error {
	for size := len(s.steps) / 2; size > 0; size /= 2 {
		for from := len(s.steps) - size; from > -size; {
			start := max(from, 0)
			kept := slices.Delete(slices.Clone(s.steps), start, min(start+size, len(s.steps)))
			if _, err := s.try(ctx, kept); err != nil {
				return err
			}
			from = min(from-size, len(s.steps)-size)
		}
	}
	return nil
}

// distances brings relative revisions nearer, so that less has to lie between.
func (s *shrinker) distances(ctx context.Context) error {
	relative := regexp.MustCompile(`@-\d+`)
	for i := 0; i < len(s.steps); i++ {
		for _, nearer := range []string{"@", "@-1", "@-2"} {
			if i >= len(s.steps) || len(s.steps[i]) != 1 || !relative.MatchString(s.steps[i][0]) {
				break
			}
			shorter := slices.Clone(s.steps)
			shorter[i] = Step{relative.ReplaceAllString(s.steps[i][0], nearer)}
			ok, err := s.try(ctx, shorter)
			if err != nil {
				return err
			}
			if ok {
				break
			}
		}
	}
	return nil
}

type shrinker struct {
	pair  Pair
	steps []Step
	best  *Result
	left  int
	kind  string
}

// try keeps the steps if they still show a difference.
func (s *shrinker) try(ctx context.Context, steps []Step) (bool, error) {
	if s.left == 0 || len(steps) == 0 {
		return false, nil
	}
	s.left--
	r, err := s.pair.Compare(ctx, steps)
	if err != nil || r.At < 0 || kind(r.Commands[r.At]) != s.kind {
		return false, err
	}
	s.steps, s.best = steps[:r.Step+1], r
	return true, nil
}

// lines takes lines out of transactions, with the lines below them.
func (s *shrinker) lines(ctx context.Context) error {
	for i := 0; i < len(s.steps); i++ {
		for line := 1; i < len(s.steps) && line < len(linesOf(s.steps[i])); {
			shorter := slices.Clone(s.steps)
			shorter[i] = without(s.steps[i], line)
			ok, err := s.try(ctx, shorter)
			if err != nil {
				return err
			}
			if !ok {
				line++
			}
		}
	}
	return nil
}

// linesOf returns the lines of a step of one command.
func linesOf(s Step) []string {
	if len(s) != 1 {
		return nil
	}
	return strings.Split(s[0], "\n")
}

func without(s Step, line int) Step {
	lines := linesOf(s)
	depth := func(l string) int { return len(l) - len(strings.TrimLeft(l, " ")) }
	end := line + 1
	for end < len(lines) && depth(lines[end]) > depth(lines[line]) {
		end++
	}
	return Step{strings.Join(slices.Delete(slices.Clone(lines), line, end), "\n")}
}
