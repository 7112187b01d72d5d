package server

import (
	"maps"
	"slices"
	"testing"
)

func TestVerdict(t *testing.T) {
	voters := []uint64{1, 2, 3}
	for _, c := range []struct {
		name    string
		voters  []uint64
		answers map[uint64]string
		want    []uint64
	}{
		{"nobody answers", voters, nil, nil},
		{"the leader alone", voters, map[uint64]string{1: "a"}, nil},
		{"all the same", voters, map[uint64]string{1: "a", 2: "a", 3: "a"}, nil},
		{"one differs", voters, map[uint64]string{1: "a", 2: "b", 3: "a"}, []uint64{2}},
		{"the leader differs", voters, map[uint64]string{1: "b", 2: "a", 3: "a"}, []uint64{1}},
		{"all differ", voters, map[uint64]string{1: "a", 2: "b", 3: "c"}, []uint64{everyone}},
		{"two differ, and one is silent", voters, map[uint64]string{1: "a", 2: "b"}, []uint64{everyone}},
		{"two agree, and one is silent", voters, map[uint64]string{1: "a", 2: "a"}, nil},
		{"half against half", []uint64{1, 2, 3, 4}, map[uint64]string{1: "a", 2: "a", 3: "b", 4: "b"}, []uint64{everyone}},
		{"two of five", []uint64{1, 2, 3, 4, 5}, map[uint64]string{1: "a", 2: "b", 3: "a", 4: "c", 5: "a"}, []uint64{2, 4}},
		{"a learner differs", voters, map[uint64]string{1: "a", 2: "a", 9: "b"}, []uint64{9}},
		{"learners are no majority", voters, map[uint64]string{1: "a", 2: "b", 7: "b", 8: "b", 9: "b"}, []uint64{everyone}},
		{"alone with a learner", []uint64{1}, map[uint64]string{1: "a", 9: "b"}, []uint64{9}},
	} {
		if got := verdict(c.answers, c.voters); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestCommon(t *testing.T) {
	hashes := map[int64]map[uint64]uint64{
		10: {1: 5, 2: 5, 3: 5}, 20: {1: 6, 2: 6, 3: 7}, 30: {1: 8, 2: 8}, 40: {1: 9},
	}
	at, answers := common(hashes)
	if at != 20 || !maps.Equal(answers, hashes[20]) {
		t.Errorf("%v at %d", answers, at)
	}
	if _, answers := common(nil); answers != nil {
		t.Errorf("%v", answers)
	}
}
