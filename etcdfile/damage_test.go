package etcdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// content is all that can be read of a file.
type content struct {
	meta Meta
	rows []Row
}

// contentOf reads all of a file made of these bytes. A panic would end the test.
func contentOf(tb testing.TB, b []byte) (content, error) {
	tb.Helper()
	f := &File{}
	if err := f.load(bytes.NewReader(b), int64(len(b)), Options{}); err != nil {
		return content{}, err
	}
	rows, err := all(f)
	if err != nil {
		tb.Errorf("an error after the file was opened: %v", err)
	}
	if _, err := f.Status(); err != nil {
		tb.Errorf("no status of a file that was opened: %v", err)
	}
	return content{*f.Meta(), rows}, nil
}

func (c content) equal(o content) bool {
	return slices.EqualFunc(c.rows, o.rows, sameRow) && fmt.Sprint(c.meta) == fmt.Sprint(o.meta)
}

// sample makes a database with leaves and branches, overflow pages and inline buckets, and an unfinished compaction.
func sample(tb testing.TB, n int) (database []byte, c content) {
	tb.Helper()
	rows := history(tb, rand.New(rand.NewPCG(6, 6)), n)
	m := full()
	for i := range n / 6 {
		m.Leases = append(m.Leases, Lease{int64(i + 1000), 60, int64(i)})
	}
	path := write(tb, rows, m)
	alter(tb, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(scheduledKey), appendRevision(nil, Revision{Main: 50}))
	})
	alter(tb, path, func(*bbolt.Tx) error { return nil }) // both meta pages
	database = read(tb, path)
	c, err := contentOf(tb, database)
	if err != nil {
		tb.Fatal(err)
	}
	return database, c
}

// snapshot puts the hash behind a database.
func snapshot(tb testing.TB, database []byte) []byte {
	tb.Helper()
	path := file(tb, database)
	if err := AppendHash(path); err != nil {
		tb.Fatal(err)
	}
	return read(tb, path)
}

// TestTruncated: what is left of a snapshot is refused, or is a database that lacks nothing but the hash.
func TestTruncated(t *testing.T) {
	database, whole := sample(t, 1000)
	last := used(t, database)
	b := snapshot(t, database[:last+2*pageSize]) // two pages are reserved, and lack nobody
	sizes := map[int]bool{len(b) - 1: true, len(b) - HashSize: true, len(b) - HashSize - 1: true}
	for n := 0; n < len(b); n += pageSize {
		for _, d := range []int{0, 1, HashSize, HashSize + 1, sector, sector + HashSize, pageSize - 1} {
			sizes[min(n+d, len(b)-1)] = true
		}
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		sizes[rng.IntN(len(b))] = true
	}
	for n := range sizes {
		c, err := contentOf(t, b[:n])
		switch {
		case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrHash):
			t.Errorf("%d bytes: %v", n, err)
		case err == nil && (n%sector != 0 || n < last || !c.equal(whole)):
			t.Errorf("%d bytes of %d are taken for a database", n, len(b))
		}
	}
}

// used is the size of the pages that a database has.
func used(tb testing.TB, database []byte) int {
	tb.Helper()
	im, err := openImage(bytes.NewReader(database), int64(len(database)))
	if err != nil {
		tb.Fatal(err)
	}
	return int(im.size())
}

// TestFlippedSnapshot: with a hash no altered bit gets by.
func TestFlippedSnapshot(t *testing.T) {
	database, _ := sample(t, 1000)
	b := snapshot(t, database[:used(t, database)])
	rng := rand.New(rand.NewPCG(8, 8))
	for i := range 1000 {
		bit := rng.IntN(len(b) * 8)
		if i < HashSize*8 {
			bit = len(b)*8 - 1 - i
		}
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := contentOf(t, b); !errors.Is(err, ErrHash) {
			t.Errorf("bit %d: %v", bit, err)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	if _, err := contentOf(t, b); err != nil {
		t.Error(err)
	}
}

// TestFlippedDatabase: without a hash an altered bit of the structure is found or changes nothing; one in what rows and settings
// say may change that, unseen. Nothing ever hangs or panics.
func TestFlippedDatabase(t *testing.T) {
	database, whole := sample(t, 300)
	b := bytes.Clone(database[:used(t, database)])
	rng := rand.New(rand.NewPCG(9, 9))
	var found, same, other int
	flip := func(bit int, structure bool) {
		b[bit/8] ^= 1 << (bit % 8)
		c, err := contentOf(t, b)
		b[bit/8] ^= 1 << (bit % 8)
		switch {
		case err != nil:
			found++
		case c.equal(whole):
			same++
		case structure:
			t.Errorf("bit %d of byte %d of page %d changes what is read", bit%8, bit/8%pageSize, bit/8/pageSize)
		default:
			other++
		}
	}
	for id := range len(b) / pageSize {
		p, size := page(b[id*pageSize:][:pageSize]), pageHeader+elementHeader
		if id < 2 {
			size = pageHeader + metaSize
		} else if p.id() != uint64(id) {
			continue // it belongs to the one before
		}
		for bit := range size * 8 {
			if id < 2 || rng.IntN(4) == 0 {
				flip(id*pageSize*8+bit, true)
			}
		}
	}
	for range 1000 {
		flip(rng.IntN(len(b)*8), false)
	}
	t.Logf("found %d, no difference %d, another value %d", found, same, other)
	if found < 1500 || same < 500 {
		t.Error("the flips do not reach what they should")
	}
}

// TestGarbage: many bytes are altered at once.
func TestGarbage(t *testing.T) {
	database, _ := sample(t, 1000)
	rng := rand.New(rand.NewPCG(10, 10))
	for range 300 {
		b := bytes.Clone(database)
		for range 1 + rng.IntN(5) {
			// Whole pages and numbers are what another page would not contradict.
			from, to := rng.IntN(len(b)/pageSize)*pageSize, rng.IntN(len(b)/pageSize)*pageSize
			switch rng.IntN(3) {
			case 0:
				copy(b[to:to+pageSize], b[from:from+pageSize])
			case 1:
				binary.LittleEndian.PutUint32(b[to+pageHeader+4*rng.IntN(64):], rng.Uint32N(uint32(len(b)/pageSize)))
			case 2:
				clear(b[to : to+pageSize])
			}
		}
		if _, err := contentOf(t, b); err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 512), make([]byte, 1<<20), bytes.Repeat([]byte("etcd"), 1<<12)} {
		if _, err := contentOf(t, b); !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	}
}

// TestCycle: a branch that leads to itself or back, on which bbolt would recurse without end.
func TestCycle(t *testing.T) {
	database, _ := sample(t, 1000)
	branches := 0
	for id := 2; id < used(t, database)/pageSize; id++ {
		p := page(database[id*pageSize:][:pageSize])
		if p.id() != uint64(id) || p.flags() != branchFlag || p.count() == 0 {
			continue
		}
		branches++
		for _, to := range []int{id, 0, 1, 2, 3, 1 << 20} {
			b := bytes.Clone(database)
			binary.LittleEndian.PutUint64(b[id*pageSize+pageHeader+8:], uint64(to))
			c, err := contentOf(t, b)
			if err == nil && to == id {
				// Pages that are not used any more are not looked at.
				if want, err := contentOf(t, database); err != nil || !c.equal(want) {
					t.Errorf("page %d leads to itself: %v", id, err)
				}
			}
		}
	}
	if branches == 0 {
		t.Error("no branch page")
	}
}

// TestForged: contents that have right checksums and that etcd would not have written.
func TestForged(t *testing.T) {
	row := put(t, 5, 0, "a", nil)
	in := func(bucket string, key, value []byte) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put(key, value) }
	}
	tests := map[string]func(*bbolt.Tx) error{
		"a row with a short key":        in(keyBucket, row.appendKey(nil)[:16], row.KeyValue),
		"a row with another mark":       in(keyBucket, append(row.appendKey(nil), 'x'), row.KeyValue),
		"a row with another separator":  in(keyBucket, bytes.Replace(row.appendKey(nil), []byte("_"), []byte("-"), 1), row.KeyValue),
		"a negative revision":           in(keyBucket, Row{Revision: Revision{-5, 0}}.appendKey(nil), row.KeyValue),
		"a change and a tombstone":      in(keyBucket, del(t, 2, 0, "a").appendKey(nil), del(t, 2, 0, "a").KeyValue),
		"another mod_revision":          in(keyBucket, appendRevision(nil, Revision{Main: 6}), row.KeyValue),
		"a compaction of 5 bytes":       in(metaBucket, []byte(finishedKey), []byte("12345")),
		"a term of 5 bytes":             in(metaBucket, []byte(termKey), []byte("12345")),
		"an index of 5 bytes":           in(metaBucket, []byte(indexKey), []byte("12345")),
		"a conf state":                  in(metaBucket, []byte(confStateKey), []byte("12345x")),
		"a lease without an id":         in(leaseBucket, []byte("x"), nil),
		"a lease with another id":       in(leaseBucket, number(6), (&Lease{7, 7, 7}).marshal()),
		"a lease that is no message":    in(leaseBucket, number(6), []byte{0xff}),
		"an alarm that is no message":   in(alarmBucket, []byte{0xff}, nil),
		"a member without an id":        in(membersBucket, []byte("x"), []byte("{}")),
		"a member with another id":      in(membersBucket, []byte("a"), []byte(`{"id":9}`)),
		"a member that is no JSON":      in(membersBucket, []byte("a"), []byte(`{`)),
		"a removed member":              in(removedBucket, []byte("x"), []byte("removed")),
		"a user that is no message":     in(usersBucket, []byte("u"), []byte{0xff}),
		"a role that is no message":     in(rolesBucket, []byte("u"), []byte{0xff}),
		"an auth revision of 5 bytes":   in(authBucket, []byte(authRevisionKey), []byte("12345")),
		"no bucket of keys":             func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(keyBucket)) },
		"no bucket meta":                func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(metaBucket)) },
		"a bucket in a bucket":          func(tx *bbolt.Tx) error { _, err := tx.Bucket([]byte(keyBucket)).CreateBucket([]byte("x")); return err },
		"a bucket in an unknown bucket": nested,
	}
	for name, change := range tests {
		path := write(t, []Row{put(t, 2, 0, "a", nil)}, full())
		alter(t, path, change)
		if _, err := Open(path, Options{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func nested(tx *bbolt.Tx) error {
	b, err := tx.CreateBucket([]byte("unknown"))
	if err != nil {
		return err
	}
	_, err = b.CreateBucket([]byte("x"))
	return err
}

// TestDeepTree: a chain of branches is refused before it is followed too far.
func TestDeepTree(t *testing.T) {
	const chain = 100
	b := append(blank(3+chain), make([]byte, chain*pageSize)...)
	for id := uint64(2); id < 2+chain; id++ {
		p := b[id*pageSize:]
		binary.LittleEndian.PutUint64(p, id)
		binary.LittleEndian.PutUint16(p[8:], branchFlag)
		binary.LittleEndian.PutUint16(p[10:], 1)
		binary.LittleEndian.PutUint32(p[pageHeader:], elementHeader)
		binary.LittleEndian.PutUint32(p[pageHeader+4:], 1)
		binary.LittleEndian.PutUint64(p[pageHeader+8:], id+1)
		p[pageHeader+elementHeader] = 'k'
	}
	if _, err := contentOf(t, b); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "levels") {
		t.Error(err)
	}
}

// blank gives the meta pages of a database of so many pages, of which the root is the one behind them.
func blank(pages uint64) []byte {
	b := make([]byte, 3*pageSize)
	for id := range uint64(2) {
		p := b[id*pageSize:]
		binary.LittleEndian.PutUint64(p, id)
		binary.LittleEndian.PutUint16(p[8:], metaFlag)
		m := p[pageHeader:]
		for at, v := range map[int]uint64{16: 2, 32: 1 << 63, 40: pages, 48: id} {
			binary.LittleEndian.PutUint64(m[at:], v)
		}
		binary.LittleEndian.PutUint32(m, magic)
		binary.LittleEndian.PutUint32(m[4:], formatVersion)
		binary.LittleEndian.PutUint32(m[8:], pageSize)
		seal(m)
	}
	return b
}

// leafWith makes the third page a leaf with overflow and one element, if key is not 0.
func leafWith(b []byte, overflow, key, value uint32) {
	p := b[2*pageSize:]
	binary.LittleEndian.PutUint64(p, 2)
	binary.LittleEndian.PutUint16(p[8:], leafFlag)
	binary.LittleEndian.PutUint32(p[12:], overflow)
	if key != 0 {
		binary.LittleEndian.PutUint16(p[10:], 1)
		binary.LittleEndian.PutUint32(p[pageHeader+4:], elementHeader)
		binary.LittleEndian.PutUint32(p[pageHeader+8:], key)
		binary.LittleEndian.PutUint32(p[pageHeader+12:], value)
	}
}

// TestOverflow: a page does not make a reader take as much memory as it says it has, in a file with nothing in it.
func TestOverflow(t *testing.T) {
	const pages = 1 << 19 // 2 GiB
	for name, c := range map[string]struct {
		overflow, key, value uint32
		text                 string
	}{
		"no elements":         {pages - 3, 0, 0, "its elements end at 0"},
		"a small one":         {pages - 3, 1, 100, "its elements end at 133"},
		"a great one":         {pages - 3, 1, (pages-2)*pageSize - 33, "more than is read"},
		"behind the overflow": {3, 1, 4 * pageSize, "its elements end at"},
	} {
		b := blank(pages)
		leafWith(b, c.overflow, c.key, c.value)
		path := file(t, b)
		truncate(t, path, pages*pageSize)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Open(path, Options{})
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: it took %d bytes", name, n)
		}
	}
}

// TestReadLimit: what all levels have together is bounded, and values that are no greater are read, whether or not bbolt took a page too many.
func TestReadLimit(t *testing.T) {
	im := func(b []byte, pages uint64) *image { return &image{bytes.NewReader(b), pageSize, 2, pages} }
	for _, spare := range []uint32{0, 1} {
		b := append(blank(10), make([]byte, 7*pageSize)...)
		leafWith(b, 3+spare, 1, 4*pageSize-33)
		w := newWalk(im(b, 10))
		w.limit = int64(4+spare) * pageSize
		if err := w.tree(2, func(element) error { return nil }); err != nil {
			t.Error(err)
		}
		w = newWalk(im(b, 10))
		w.limit = int64(4+spare)*pageSize - 1
		if err := w.tree(2, func(element) error { return nil }); !errors.Is(err, ErrDamaged) {
			t.Errorf("over the limit: %v", err)
		}
		w = newWalk(im(b, 10))
		w.limit, w.levels = int64(4+spare)*pageSize, []page{make(page, pageSize), make(page, pageSize)}
		if err := w.tree(2, func(element) error { return nil }); !errors.Is(err, ErrDamaged) {
			t.Errorf("with another level: %v", err)
		}
	}
	b := blank(3)
	binary.LittleEndian.PutUint32(b[pageHeader+8:], 128<<10)
	if _, err := readHeader(bytes.NewReader(resum(b)), 0); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "pages of 131072 bytes") {
		t.Error(err)
	}
}

// resum makes the checksum of the first page right.
func resum(b []byte) []byte {
	sum := fnv.New64a()
	sum.Write(b[pageHeader : pageHeader+metaSummed])
	binary.LittleEndian.PutUint64(b[pageHeader+metaSummed:], sum.Sum64())
	return b
}

// TestOneMetaPage: bbolt would go on with the other one, and with what was before the last transaction.
func TestOneMetaPage(t *testing.T) {
	for id := range 2 {
		b := read(t, write(t, []Row{put(t, 2, 0, "a", nil)}, full()))
		b[id*pageSize+pageHeader+48]++
		if _, err := contentOf(t, b); !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	}
}

// TestInUse: a file that a server writes is not read.
func TestInUse(t *testing.T) {
	path := write(t, nil, full())
	alter(t, path, func(*bbolt.Tx) error {
		if _, err := Open(path, Options{}); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
		return nil
	})
	open(t, path)
}

// TestSkipHash: the hash is left alone on demand, and only the hash.
func TestSkipHash(t *testing.T) {
	b := snapshot(t, read(t, write(t, []Row{put(t, 2, 0, "a", nil)}, full())))
	b[len(b)-1]++
	path := file(t, b)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrHash) {
		t.Error(err)
	}
	f, err := Open(path, Options{SkipHash: true})
	if err != nil || !f.Hashed() {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := AppendHash(path); !errors.Is(err, ErrHash) {
		t.Errorf("a second hash: %v", err)
	}
	truncate(t, path, int64(len(b)-1))
	if _, err := Open(path, Options{SkipHash: true}); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

// FuzzDatabase: whatever a file says, reading it ends, without a panic.
func FuzzDatabase(f *testing.F) {
	database, _ := sample(f, 20)
	f.Add(database[:used(f, database)])
	f.Fuzz(func(t *testing.T, b []byte) {
		// Else nearly all would be refused for their checksums.
		for id := range 2 {
			if p := b[min(id*pageSize, len(b)):]; len(p) >= pageHeader+metaSize {
				seal(p[pageHeader:])
			}
		}
		if _, err := contentOf(t, b); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrHash) {
			t.Error(err)
		}
	})
}

// seal gives a meta page's content the right checksum.
func seal(m []byte) {
	sum := fnv.New64a()
	sum.Write(m[:metaSummed])
	binary.LittleEndian.PutUint64(m[metaSummed:], sum.Sum64())
}
