package watch

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestIntervals holds the tree against asking every watcher.
func TestIntervals(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 1))
		key := func() string { return fmt.Sprintf("%03d", r.IntN(200)) }
		var tree intervals
		all := map[*watcher]bool{}
		for step := range 3000 {
			if len(all) > 0 && (r.IntN(3) == 0 || step > 2000) {
				for w := range all {
					tree.remove(w)
					tree.remove(w) // again: it is not there any more
					delete(all, w)
					break
				}
			} else {
				rng := mvcc.Range{Start: key(), End: key()}
				switch r.IntN(4) {
				case 0:
					rng = mvcc.NewRange([]byte(rng.Start), nil)
				case 1:
					rng.End = ""
				}
				w := &watcher{r: rng}
				tree.add(w)
				all[w] = true
			}
			k := key()
			found := map[*watcher]bool{}
			tree.find(k, func(w *watcher) {
				if found[w] {
					t.Fatalf("seed %d: %q found twice", seed, w.r)
				}
				found[w] = true
			})
			for w := range all {
				if w.r.Contains(k) != found[w] {
					t.Fatalf("seed %d, step %d: %q in %q: found %v", seed, step, k, w.r, found[w])
				}
				delete(found, w)
			}
			if len(found) > 0 {
				t.Fatalf("seed %d: removed watchers are found", seed)
			}
		}
	}
}
