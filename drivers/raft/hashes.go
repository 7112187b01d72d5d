package raft

import "sort"

// Hash is the hash of all commands up to a position, at which one ends. It is the same on all members, or their logs are not.
type Hash struct {
	Position int64
	// Sum is 0 if no command ends there.
	Sum uint64
}

// Hashes gives hashes at positions that this member has in memory, ascending: the last one, and so many before it, at even distances. A
// server that is alone has none.
func (l *Log) Hashes(most int) []Hash {
	if l.node.Load() == nil {
		return nil
	}
	return l.tail.hashes(most)
}

// HashesAt gives the hashes at those of some positions that this member has in memory.
func (l *Log) HashesAt(positions []int64) []Hash {
	if l.node.Load() == nil {
		return nil
	}
	return l.tail.hashesAt(positions)
}

func (t *tail) hashes(most int) []Hash {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := len(t.batches)
	if n == 0 {
		return []Hash{{t.end.Position, t.chain}}
	}
	step := (n + most - 1) / most
	out := make([]Hash, 0, most)
	for i := (n - 1) % step; i < n; i += step {
		out = append(out, Hash{t.batches[i].end().Position, t.batches[i].chain})
	}
	return out
}

func (t *tail) hashesAt(positions []int64) (out []Hash) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range positions {
		if p == t.end.Position {
			out = append(out, Hash{p, t.chain})
			continue
		}
		i := sort.Search(len(t.batches), func(i int) bool { return t.batches[i].end().Position >= p })
		switch {
		case i == len(t.batches) || p <= t.batches[0].after.Position:
		case t.batches[i].end().Position == p:
			out = append(out, Hash{p, t.batches[i].chain})
		default:
			out = append(out, Hash{Position: p})
		}
	}
	return out
}
