package mvcc

import "iter"

// maxItems is the capacity of a node. Wide nodes make lookups cheap and
// copies dear; at 32 a write to a tree of a million keys copies about 5 KiB.
const (
	maxItems = 32
	minItems = maxItems / 4
)

// weighted is what a tree stores. The sum of weights below a node is kept in it,
// which is how ranks and counts cost one descent.
type weighted interface{ weight() int }

// tree is a copy-on-write B+tree from strings to V, ordered by bytes. A
// tree value is a snapshot: it never changes, and any number of goroutines may
// read it. Changing it through an [owner] gives a new snapshot that shares
// what did not change. The zero tree is empty.
type tree[V weighted] struct {
	root *node[V]
}

// owner marks the nodes that were made since the last publication and that
// may therefore be changed in place. Once a snapshot is handed out, its owner must be
// given up for a new one.
type owner struct{ _ byte }

type node[V weighted] struct {
	owner *owner
	total int // sum of the weights below
	keys  []string
	vals  []V        // leaves only, parallel to keys
	kids  []*node[V] // inner nodes only; keys[i] is a lower bound of kids[i] and above all of kids[i-1]
}

func (n *node[V]) leaf() bool { return n.kids == nil }

// find returns the first position in a leaf whose key is not below key.
func (n *node[V]) find(key string) int {
	lo, hi := 0, len(n.keys)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.keys[mid] < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// child returns the position of the subtree in which key belongs.
func (n *node[V]) child(key string) int {
	i := n.find(key)
	if i < len(n.keys) && n.keys[i] == key {
		return i
	}
	return max(i-1, 0)
}

func (t tree[V]) get(key string) (v V, ok bool) {
	n := t.root
	if n == nil {
		return v, false
	}
	for !n.leaf() {
		n = n.kids[n.child(key)]
	}
	if i := n.find(key); i < len(n.keys) && n.keys[i] == key {
		return n.vals[i], true
	}
	return v, false
}

// total is the sum of all weights.
func (t tree[V]) total() int {
	if t.root == nil {
		return 0
	}
	return t.root.total
}

// rank is the sum of the weights of all keys below key.
func (t tree[V]) rank(key string) int {
	n, sum := t.root, 0
	if n == nil {
		return 0
	}
	for !n.leaf() {
		c := n.child(key)
		for _, k := range n.kids[:c] {
			sum += k.total
		}
		n = n.kids[c]
	}
	for i := n.find(key) - 1; i >= 0; i-- {
		sum += n.vals[i].weight()
	}
	return sum
}

// all yields every item of r in order.
func (t tree[V]) all(r Range) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if t.root != nil {
			t.root.walk(r, false, yield)
		}
	}
}

// live yields the items of r that weigh something, passing over subtrees of dead ones.
func (t tree[V]) live(r Range) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if t.root != nil {
			t.root.walk(r, true, yield)
		}
	}
}

func (n *node[V]) walk(r Range, live bool, yield func(string, V) bool) bool {
	if live && n.total == 0 {
		return true
	}
	if !n.leaf() {
		for i := n.child(r.Start); i < len(n.kids); i++ {
			if i > 0 && !r.beforeEnd(n.keys[i]) {
				return true
			}
			if !n.kids[i].walk(r, live, yield) {
				return false
			}
		}
		return true
	}
	for i := n.find(r.Start); i < len(n.keys); i++ {
		if !r.beforeEnd(n.keys[i]) {
			return false
		}
		if live && n.vals[i].weight() == 0 {
			continue
		}
		if !yield(n.keys[i], n.vals[i]) {
			return false
		}
	}
	return true
}

// mutable gives a node that o may change: n itself or a copy of it.
func (n *node[V]) mutable(o *owner) *node[V] {
	if n.owner == o {
		return n
	}
	c := &node[V]{owner: o, total: n.total, keys: append(make([]string, 0, maxItems), n.keys...)}
	if n.leaf() {
		c.vals = append(make([]V, 0, maxItems), n.vals...)
	} else {
		c.kids = append(make([]*node[V], 0, maxItems), n.kids...)
	}
	return c
}

// set puts v at key and gives the changed tree.
func (t tree[V]) set(o *owner, key string, v V) tree[V] {
	if t.root == nil {
		n := &node[V]{owner: o, keys: make([]string, 0, maxItems), vals: make([]V, 0, maxItems)}
		n.keys, n.vals, n.total = append(n.keys, key), append(n.vals, v), v.weight()
		return tree[V]{n}
	}
	left, right, _ := t.root.set(o, key, v)
	if right == nil {
		return tree[V]{left}
	}
	root := &node[V]{owner: o, total: left.total + right.total,
		keys: append(make([]string, 0, maxItems), left.keys[0], right.keys[0]),
		kids: append(make([]*node[V], 0, maxItems), left, right)}
	return tree[V]{root}
}

// set gives the changed node, a second one if it had to be split, and the change of weight.
func (n *node[V]) set(o *owner, key string, v V) (left, right *node[V], delta int) {
	n = n.mutable(o)
	if n.leaf() {
		i := n.find(key)
		if i < len(n.keys) && n.keys[i] == key {
			delta = v.weight() - n.vals[i].weight()
			n.vals[i] = v
			n.total += delta
			return n, nil, delta
		}
		delta = v.weight()
		n.total += delta
		if len(n.keys) == maxItems {
			right = n.split(o, i)
			target := n
			if i > len(n.keys) || i == maxItems {
				target, i = right, i-len(n.keys)
			}
			target.keys, target.vals = insertAt(target.keys, i, key), insertAt(target.vals, i, v)
			n.sum()
			right.sum()
			return n, right, delta
		}
		n.keys, n.vals = insertAt(n.keys, i, key), insertAt(n.vals, i, v)
		return n, nil, delta
	}
	i := n.child(key)
	kid, extra, delta := n.kids[i].set(o, key, v)
	n.kids[i] = kid
	n.total += delta
	if key < n.keys[i] {
		n.keys[i] = key
	}
	if extra == nil {
		return n, nil, delta
	}
	i++
	if len(n.keys) < maxItems {
		n.keys, n.kids = insertAt(n.keys, i, extra.keys[0]), insertAt(n.kids, i, extra)
		return n, nil, delta
	}
	right = n.split(o, i)
	target := n
	if i > len(n.keys) || i == maxItems {
		target, i = right, i-len(n.keys)
	}
	target.keys, target.kids = insertAt(target.keys, i, extra.keys[0]), insertAt(target.kids, i, extra)
	n.sum()
	right.sum()
	return n, right, delta
}

// split moves the upper half of a full node into a new one. When the coming
// item belongs at the very end nothing is moved: keys that arrive in ascending
// order fill nodes instead of leaving them half empty.
func (n *node[V]) split(o *owner, at int) *node[V] {
	cut := maxItems / 2
	if at == maxItems {
		cut = maxItems
	}
	right := &node[V]{owner: o, keys: make([]string, 0, maxItems)}
	if n.leaf() {
		right.vals = append(make([]V, 0, maxItems), n.vals[cut:]...)
		clear(n.vals[cut:])
		n.vals = n.vals[:cut]
	} else {
		right.kids = append(make([]*node[V], 0, maxItems), n.kids[cut:]...)
		clear(n.kids[cut:])
		n.kids = n.kids[:cut]
	}
	right.keys = append(right.keys, n.keys[cut:]...)
	clear(n.keys[cut:])
	n.keys = n.keys[:cut]
	return right
}

func (n *node[V]) sum() {
	n.total = 0
	for _, v := range n.vals {
		n.total += v.weight()
	}
	for _, k := range n.kids {
		n.total += k.total
	}
}

// del takes key out and gives the changed tree.
func (t tree[V]) del(o *owner, key string) tree[V] {
	if _, ok := t.get(key); !ok {
		return t
	}
	root := t.root.mutable(o)
	root.del(o, key)
	for !root.leaf() && len(root.kids) == 1 {
		root = root.kids[0]
	}
	if len(root.keys) == 0 {
		return tree[V]{}
	}
	return tree[V]{root}
}

// del takes an existing key out of a mutable node and gives the change of weight.
func (n *node[V]) del(o *owner, key string) (delta int) {
	if n.leaf() {
		i := n.find(key)
		delta = -n.vals[i].weight()
		n.keys, n.vals = removeAt(n.keys, i), removeAt(n.vals, i)
		n.total += delta
		return delta
	}
	i := n.child(key)
	kid := n.kids[i].mutable(o)
	n.kids[i] = kid
	delta = kid.del(o, key)
	n.total += delta
	if len(kid.keys) < minItems {
		n.rebalance(o, i)
	}
	return delta
}

// rebalance drops the small child i if it is empty, or joins it with a neighbour if both fit in one.
func (n *node[V]) rebalance(o *owner, i int) {
	if len(n.kids[i].keys) == 0 {
		n.keys, n.kids = removeAt(n.keys, i), removeAt(n.kids, i)
		return
	}
	if i == len(n.kids)-1 {
		i--
	}
	if i < 0 || len(n.kids[i].keys)+len(n.kids[i+1].keys) > maxItems*3/4 {
		return
	}
	left, right := n.kids[i].mutable(o), n.kids[i+1]
	left.keys = append(left.keys, right.keys...)
	left.vals = append(left.vals, right.vals...)
	left.kids = append(left.kids, right.kids...)
	left.total += right.total
	n.kids[i] = left
	n.keys, n.kids = removeAt(n.keys, i+1), removeAt(n.kids, i+1)
}

func insertAt[T any](s []T, i int, v T) []T {
	var zero T
	s = append(s, zero)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

func removeAt[T any](s []T, i int) []T {
	var zero T
	copy(s[i:], s[i+1:])
	s[len(s)-1] = zero
	return s[:len(s)-1]
}
