package differ

import (
	"context"
	"slices"
	"strings"
)

// Shrink takes away what a difference does not need: whole steps first, then
// lines of transactions. It plays at most tries scripts, each on fresh servers,
// and returns the result of the shortest one that still shows a difference.
func (p Pair) Shrink(ctx context.Context, steps []Step, found *Result, tries int) (*Result, error) {
	s := &shrinker{pair: p, steps: slices.Clone(steps[:found.Step+1]), best: found, left: tries}
	for size := len(s.steps) / 2; size > 0; size /= 2 {
		for from := len(s.steps) - size; from > -size; {
			start := max(from, 0)
			kept := slices.Delete(slices.Clone(s.steps), start, min(start+size, len(s.steps)))
			if _, err := s.try(ctx, kept); err != nil {
				return s.best, err
			}
			from = min(from-size, len(s.steps)-size)
		}
	}
	return s.best, s.lines(ctx)
}

type shrinker struct {
	pair  Pair
	steps []Step
	best  *Result
	left  int
}

// try keeps the steps if they still show a difference.
func (s *shrinker) try(ctx context.Context, steps []Step) (bool, error) {
	if s.left == 0 || len(steps) == 0 {
		return false, nil
	}
	s.left--
	r, err := s.pair.Compare(ctx, steps)
	if err != nil || r.At < 0 {
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
