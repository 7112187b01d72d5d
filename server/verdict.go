package server

import (
	"maps"
	"slices"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// everyone is the member of an alarm for all of them.
const everyone = 0

// verdict says for whom to raise the CORRUPT alarm, by what members answered to a question to which all should answer the same, as etcd's
// CompactHashCheck decides it: for those that differ from a majority of the voters, and for everyone if no majority agrees. Who did
// not answer is not judged, and counts among those of whom there has to be a majority. A learner has no vote.
func verdict[A comparable](answers map[uint64]A, voters []uint64) []uint64 {
	votes, different := map[A]int{}, map[A]bool{}
	for id, a := range answers {
		different[a] = true
		if slices.Contains(voters, id) {
			votes[a]++
		}
	}
	if len(different) <= 1 {
		return nil
	}
	for right, n := range votes {
		if n <= len(voters)/2 {
			continue
		}
		var wrong []uint64
		for id, a := range answers {
			if a != right {
				wrong = append(wrong, id)
			}
		}
		return slices.Sorted(slices.Values(wrong))
	}
	return []uint64{everyone}
}

// votersOf gives the ids of the members that vote.
func votersOf(ix *mvcc.Index) []uint64 {
	var ids []uint64
	for _, m := range ix.Members() {
		if !m.IsLearner {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// common gives the position for which most members gave a hash, the last such one, and what they gave.
func common(hashes map[int64]map[uint64]uint64) (at int64, answers map[uint64]uint64) {
	for _, p := range slices.Sorted(maps.Keys(hashes)) {
		if len(hashes[p]) >= len(answers) {
			at, answers = p, hashes[p]
		}
	}
	return at, answers
}
