package mvcc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

type heavy int

func (h heavy) weight() int { return int(h) }

// checkTree holds a tree against a map, and its own structure.
func checkTree(t *testing.T, r *rand.Rand, tr tree[heavy], want map[string]heavy) {
	t.Helper()
	keys := slices.Sorted(maps.Keys(want))
	total, rank := 0, map[string]int{}
	for _, k := range keys {
		rank[k] = total
		total += int(want[k])
	}
	if tr.total() != total {
		t.Fatalf("total %d, want %d", tr.total(), total)
	}
	i := 0
	for k, v := range tr.all(Everything) {
		if i >= len(keys) || k != keys[i] || v != want[k] || tr.rank(k) != rank[k] {
			t.Fatalf("item %d is %q (%d) at rank %d", i, k, v, tr.rank(k))
		}
		i++
	}
	if i != len(keys) {
		t.Fatalf("%d items, want %d", i, len(keys))
	}
	for range 20 {
		a, b := fmt.Sprintf("%05d", r.IntN(6000)), fmt.Sprintf("%05d", r.IntN(6000))
		rng := Range{Start: a, End: b}
		var wanted, live []string
		below := 0
		for _, k := range keys {
			if k < a {
				below += int(want[k])
			}
			if rng.Contains(k) {
				wanted = append(wanted, k)
				if want[k] > 0 {
					live = append(live, k)
				}
			}
		}
		if tr.rank(a) != below {
			t.Fatalf("rank of %q: %d, want %d", a, tr.rank(a), below)
		}
		if got := collect(tr.all(rng)); !slices.Equal(got, wanted) {
			t.Fatalf("all of %q: %q, want %q", rng, got, wanted)
		}
		if got := collect(tr.live(rng)); !slices.Equal(got, live) {
			t.Fatalf("live of %q: %q, want %q", rng, got, live)
		}
		if v, ok := tr.get(a); ok != (slices.Contains(keys, a)) || v != want[a] {
			t.Fatalf("get %q: %v %v", a, v, ok)
		}
	}
	if tr.root != nil {
		checkNode(t, tr.root, "", "")
	}
}

func collect(seq func(func(string, heavy) bool)) (keys []string) {
	for k := range seq {
		keys = append(keys, k)
	}
	return keys
}

// checkNode checks order, bounds, sums and capacity, and gives the depth.
func checkNode(t *testing.T, n *node[heavy], low, high string) int {
	t.Helper()
	if len(n.keys) == 0 || len(n.keys) > maxItems || !slices.IsSorted(n.keys) {
		t.Fatalf("a node with keys %q", n.keys)
	}
	if n.keys[0] < low || high != "" && n.keys[len(n.keys)-1] >= high {
		t.Fatalf("keys %q outside of [%q, %q)", n.keys, low, high)
	}
	sum := 0
	if n.leaf() {
		for _, v := range n.vals {
			sum += int(v)
		}
		if sum != n.total || len(n.vals) != len(n.keys) {
			t.Fatalf("a leaf of total %d says %d", sum, n.total)
		}
		return 1
	}
	depth := 0
	for i, kid := range n.kids {
		end := high
		if i+1 < len(n.keys) {
			end = n.keys[i+1]
		}
		d := checkNode(t, kid, n.keys[i], end)
		if depth != 0 && d != depth {
			t.Fatalf("leaves at depths %d and %d", d, depth)
		}
		depth = d
		sum += kid.total
	}
	if sum != n.total || len(n.kids) != len(n.keys) {
		t.Fatalf("a node of total %d says %d", sum, n.total)
	}
	return depth + 1
}

// TestTree sets and deletes at random, ascending and descending, keeping
// snapshots, none of which may ever change.
func TestTree(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			var tr tree[heavy]
			want := map[string]heavy{}
			own := new(owner)
			type snapshot struct {
				tr   tree[heavy]
				want map[string]heavy
			}
			var snapshots []snapshot
			for step := range 12_000 {
				n := r.IntN(5000)
				switch seed % 3 {
				case 1:
					n = step % 5000
				case 2:
					n = 5000 - step%5000
				}
				k := fmt.Sprintf("%05d", n)
				// The tree grows, shrinks to nothing, and grows again.
				if shrinking := step/3000%2 == 1; r.IntN(10) < 2 || shrinking && r.IntN(10) < 8 {
					if shrinking && len(want) > 0 && r.IntN(2) == 0 {
						for k = range tr.all(Range{Start: k}) {
							break
						}
					}
					tr = tr.del(own, k)
					delete(want, k)
				} else {
					v := heavy(r.IntN(2))
					tr = tr.set(own, k, v)
					want[k] = v
				}
				if r.IntN(40) == 0 {
					own = new(owner)
					if r.IntN(10) == 0 {
						snapshots = append(snapshots, snapshot{tr, maps.Clone(want)})
					}
				}
			}
			checkTree(t, r, tr, want)
			for k := range maps.Clone(want) {
				tr = tr.del(own, k)
				delete(want, k)
				if len(want)%1000 == 0 {
					checkTree(t, r, tr, want)
				}
			}
			if tr.root != nil {
				t.Fatal("an empty tree has a root")
			}
			for _, s := range snapshots {
				checkTree(t, r, s.tr, s.want)
			}
		})
	}
}

// TestPast finds every version of a key that was written very often, in few steps.
func TestPast(t *testing.T) {
	const n = 100_000
	rec := &record{Version: Version{Main: 2, Count: 1}}
	for main := int64(4); main <= 2*n; main += 2 {
		rec = &record{Version: Version{Main: main, Count: 1}, older: push(rec.Version, rec.older)}
	}
	for rev := int64(-1); rev <= 2*n+3; rev++ {
		v := rec.at(rev)
		want := min(rev/2*2, 2*n)
		if rev < 2 {
			if v != nil {
				t.Fatalf("at %d: %+v", rev, v)
			}
			continue
		}
		if v == nil || v.Main != want {
			t.Fatalf("at %d: %+v, want revision %d", rev, v, want)
		}
	}
	for _, rev := range []int64{2, 3, 777, n, 2*n - 2} {
		steps := 0
		for p := rec.older; p != nil && p.Main > rev; steps++ {
			if p.jump != nil && p.jump.Main > rev {
				p = p.jump
			} else {
				p = p.prev
			}
		}
		if steps > 60 {
			t.Errorf("finding revision %d takes %d steps", rev, steps)
		}
	}
}
