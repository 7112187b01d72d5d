package load

import (
	"math/rand/v2"
	"strconv"
)

// poolSize is the size of the random text from which values are cut. It is prime so that offsets do not repeat early.
const poolSize = 16<<20 + 43

// Values cuts values out of random bytes, the same in every run. A value costs nothing and is known again when read.
type Values struct{ pool string }

// NewValues makes the random bytes. It takes some 20 ms; one Values serves all loads.
func NewValues() *Values {
	pool := make([]byte, poolSize)
	_, _ = rand.NewChaCha8([32]byte{'k', 'e', 'e', 'l'}).Read(pool) // never fails
	return &Values{pool: string(pool)}
}

// at gives the value of key i in its given generation, size bytes long.
func (v *Values) at(i, generation, size int) string {
	span := uint64(len(v.pool) - size)
	off := (uint64(i)*2_654_435_761 + uint64(generation)*40_503_001) % span
	return v.pool[off : off+uint64(size)]
}

// keyspace names keys as kube-apiserver does: /registry/<resource>/<namespace>/<name>. All names have the same length, so
// that the last indexDigits bytes of a key are its index.
type keyspace struct {
	resource   string
	namespaces int
}

const indexDigits = 8

// prefix is what all keys of the keyspace begin with.
func (k keyspace) prefix() string { return "/registry/" + k.resource + "/" }

// namespace is the prefix of all keys in namespace n.
func (k keyspace) namespace(n int) string {
	return string(append(k.appendNamespace(nil, n), '/'))
}

func (k keyspace) appendNamespace(b []byte, n int) []byte {
	b = append(append(append(b, "/registry/"...), k.resource...), "/team-"...)
	return appendPadded(b, n, 4)
}

// key is the key of index i; consecutive ones lie in different namespaces.
func (k keyspace) key(i int) string {
	b := k.appendNamespace(make([]byte, 0, 64), i%k.namespaces)
	b = append(b, "/object-"...)
	return string(appendPadded(b, i, indexDigits))
}

// appendPadded appends n in at least the given number of digits.
func appendPadded(b []byte, n, digits int) []byte {
	for limit := pow10(digits - 1); limit > n && limit > 1; limit /= 10 {
		b = append(b, '0')
	}
	return strconv.AppendInt(b, int64(n), 10)
}

func pow10(n int) int {
	p := 1
	for range n {
		p *= 10
	}
	return p
}

// indexOf gives the index of a key of any keyspace, or -1 when it is none.
func indexOf(key []byte) int {
	if len(key) < indexDigits {
		return -1
	}
	n := 0
	for _, c := range key[len(key)-indexDigits:] {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// mix is a hash of a write, by key index and revision. Sums of it are equal when two sets of writes are, and else not,
// by any likelihood.
func mix(index int, revision int64) uint64 {
	x := uint64(index)<<40 ^ uint64(revision)
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
