package watch

import "github.com/keelson-io/keelson/sqllog/mvcc"

// intervals finds watchers by a key in their range. It is a treap ordered by range,
// in which every node knows the highest end below it; watchers of the same
// range, of which Kubernetes has many, share a node. Finding m watchers among n ranges costs O(log n + m).
type intervals struct {
	root *interval
	seed uint64
}

type interval struct {
	r           mvcc.Range
	watchers    map[*watcher]struct{}
	priority    uint64
	left, right *interval
	maxEnd      string // "" is beyond every key
}

func less(a, b mvcc.Range) bool { return a.Start < b.Start || a.Start == b.Start && a.End < b.End }

// random gives the priorities that keep the tree balanced (xorshift64*).
func (t *intervals) random() uint64 {
	if t.seed == 0 {
		t.seed = 0x9e3779b97f4a7c15
	}
	t.seed ^= t.seed >> 12
	t.seed ^= t.seed << 25
	t.seed ^= t.seed >> 27
	return t.seed * 0x2545f4914f6cdd1d
}

func (t *intervals) add(w *watcher) { t.root = t.insert(t.root, w) }

func (t *intervals) insert(n *interval, w *watcher) *interval {
	if n == nil {
		n = &interval{r: w.r, watchers: map[*watcher]struct{}{w: {}}, priority: t.random()}
		n.update()
		return n
	}
	switch {
	case n.r == w.r:
		n.watchers[w] = struct{}{}
	case less(w.r, n.r):
		if n.left = t.insert(n.left, w); n.left.priority > n.priority {
			return n.rotateRight()
		}
	default:
		if n.right = t.insert(n.right, w); n.right.priority > n.priority {
			return n.rotateLeft()
		}
	}
	n.update()
	return n
}

func (t *intervals) remove(w *watcher) { t.root = t.root.remove(w) }

func (n *interval) remove(w *watcher) *interval {
	switch {
	case n == nil:
		return nil
	case n.r == w.r:
		if delete(n.watchers, w); len(n.watchers) == 0 {
			return merge(n.left, n.right)
		}
	case less(w.r, n.r):
		n.left = n.left.remove(w)
	default:
		n.right = n.right.remove(w)
	}
	n.update()
	return n
}

// merge joins two treaps of which the first comes before the second.
func merge(a, b *interval) *interval {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		a.update()
		return a
	}
	b.left = merge(a, b.left)
	b.update()
	return b
}

func (n *interval) rotateRight() *interval {
	l := n.left
	n.left, l.right = l.right, n
	n.update()
	l.update()
	return l
}

func (n *interval) rotateLeft() *interval {
	r := n.right
	n.right, r.left = r.left, n
	n.update()
	r.update()
	return r
}

func (n *interval) update() {
	n.maxEnd = n.r.End
	for _, kid := range [...]*interval{n.left, n.right} {
		if kid != nil && n.maxEnd != "" && (kid.maxEnd == "" || kid.maxEnd > n.maxEnd) {
			n.maxEnd = kid.maxEnd
		}
	}
}

// find calls fn for every watcher whose range holds key.
func (t *intervals) find(key string, fn func(*watcher)) { t.root.find(key, fn) }

func (n *interval) find(key string, fn func(*watcher)) {
	for n != nil && (n.maxEnd == "" || key < n.maxEnd) {
		n.left.find(key, fn)
		if n.r.Start > key {
			return
		}
		if n.r.Contains(key) {
			for w := range n.watchers {
				fn(w)
			}
		}
		n = n.right
	}
}
