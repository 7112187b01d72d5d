package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// hook is a Hook made of a function.
type hook func(op faultfs.Op) faultfs.Verdict

func (h hook) Before(op faultfs.Op) faultfs.Verdict { return h(op) }
func (h hook) Synced(string)                        {}

func isWAL(op faultfs.Op) bool { return strings.HasSuffix(op.Path, "-wal") }

// faulty opens a log whose files the hook decides about.
func faulty(t *testing.T, h faultfs.Hook, opts Options) *Log {
	t.Helper()
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	setHook(t, h)
	opts.vfs = faultfs.Name
	opts.Logger = slog.New(slog.DiscardHandler)
	return openLog(t, opts)
}

// ledger is what a log must hold.
type ledger struct {
	entries  []drivers.Entry // scrubbed ones with a nil Meta
	closings [][]byte        // of each entry, nil if it closes no batch
	end      drivers.End
	mark     Mark
	scrubbed int64
	maybe    func(*ledger) // an operation that was under way, nil if there was none
}

func (g *ledger) append(b *drivers.Batch) { g.appendAll([]Marked{{Batch: b}}) }

func (g *ledger) appendAll(batches []Marked) {
	for i := range batches {
		b := batches[i].Batch
		for _, e := range b.Entries {
			e.Position = int64(len(g.entries)) + 1
			g.entries, g.closings = append(g.entries, e), append(g.closings, nil)
		}
		g.closings[len(g.closings)-1] = encodeClosing(&batches[i])
		g.end, g.mark = drivers.End{Position: int64(len(g.entries)), Batch: b.ID}, batches[i].Mark
	}
}

func (g *ledger) scrub(positions []int64) {
	g.entries = append([]drivers.Entry(nil), g.entries...)
	for _, p := range positions {
		g.entries[p-1].Meta = nil
		g.scrubbed = max(g.scrubbed, p)
	}
}

func (g *ledger) clone() *ledger {
	c := *g
	c.entries = append([]drivers.Entry(nil), g.entries...)
	c.closings = append([][]byte(nil), g.closings...)
	return &c
}

// compare says how a log differs from the ledger.
func (g *ledger) compare(l *Log) error {
	bounds, err := l.ReadIndex(context.Background())
	if err != nil {
		return err
	}
	if want := (drivers.Bounds{End: g.end, Scrubbed: g.scrubbed}); bounds != want {
		return fmt.Errorf("the bounds are %v, want %v", bounds, want)
	}
	if end, mark := l.LastMark(); end != g.end || mark != g.mark {
		return fmt.Errorf("the last mark is %x at %v, want %x at %v", mark, end, g.mark, g.end)
	}
	next := 0
	skip := func() {
		for next < len(g.entries) && g.entries[next].Meta == nil {
			next++
		}
	}
	err = l.Rows(context.Background(), 0, math.MaxInt64, func(got []Row) error {
		for _, e := range got {
			skip()
			if next == len(g.entries) {
				return fmt.Errorf("position %d is too much", e.Position)
			}
			w := g.entries[next]
			if e.Position != w.Position || e.Kind != w.Kind || !bytes.Equal(e.Meta, w.Meta) || !bytes.Equal(e.Value, w.Value) {
				return fmt.Errorf("position %d is not as it was appended at %d", e.Position, w.Position)
			}
			if want := g.closings[next]; !bytes.Equal(e.Closing, want) || (e.Closing == nil) != (want == nil) {
				return fmt.Errorf("position %d closes %x, want %x", e.Position, e.Closing, want)
			}
			next++
		}
		return nil
	})
	if skip(); err == nil && next < len(g.entries) {
		err = fmt.Errorf("position %d is missing", g.entries[next].Position)
	}
	return errors.Join(err, l.Check(context.Background(), func(f string) { err = errors.Join(err, errors.New(f)) }), err)
}

// compareFiles opens a copy of a log's files, as after a crash, and compares.
func (g *ledger) compareFiles(t *testing.T, path string) error {
	t.Helper()
	l, err := Open(t.Context(), Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	err = g.compare(l)
	if err != nil && g.maybe != nil {
		with := g.clone()
		g.maybe(with)
		if with.compare(l) == nil {
			err = nil
		}
	}
	return errors.Join(err, l.Close())
}

// work appends, scrubs and defragments at random, and keeps the ledger. What fails is
// tried again a few times: faults end.
type work struct {
	t      *testing.T
	log    *Log
	disk   *faultfs.Disk
	rand   *rand.Rand
	ledger ledger
	failed int

	imageRand *rand.Rand
	images    []image
}

func (w *work) step() {
	w.t.Helper()
	switch k := w.rand.IntN(20); {
	case k < 4 && w.ledger.end.Position > 1:
		w.scrub()
	case k < 5:
		w.outcome(w.log.Defragment(w.t.Context()))
	case k < 7:
		w.outcome(w.log.checkpointer.checkpoint(w.t.Context()))
	default:
		w.append()
	}
}

// begin notes an operation before it begins, and end what came of it.
func (w *work) begin(do func(*ledger)) {
	w.ledger.maybe = do
}

func (w *work) end(done bool) {
	if done {
		w.ledger.maybe(&w.ledger)
	}
	w.ledger.maybe = nil
}

// outcome counts failures and settles those in doubt, by the log's bounds.
func (w *work) outcome(err error) (doubt bool, bounds drivers.Bounds) {
	w.t.Helper()
	if err == nil {
		return false, bounds
	}
	w.failed++
	if errors.Is(err, drivers.ErrConflict) || errors.Is(err, drivers.ErrCorrupt) {
		w.t.Fatal(err)
	}
	doubt = errors.Is(err, drivers.ErrUncertain) || errors.Is(err, drivers.ErrUnresolved)
	for range 10 {
		if bounds, err = w.log.ReadIndex(w.t.Context()); err == nil {
			return doubt, bounds
		}
		w.failed++
	}
	w.t.Fatalf("the fault is over: %v", err)
	return
}

// append appends some batches at once, with marks and without.
func (w *work) append() {
	w.t.Helper()
	w.appendUpTo(3000)
}

// appendUpTo appends values of no more than so many bytes, 24 at most.
func (w *work) appendUpTo(size int) {
	w.t.Helper()
	var batches []Marked
	for range 1 + w.rand.IntN(3) {
		m := Marked{Batch: newBatch(1+w.rand.IntN(8), make([]byte, w.rand.IntN(size)))}
		if w.rand.IntN(2) == 0 {
			m.Mark = markOf(m.Batch)
		}
		batches = append(batches, m)
	}
	w.begin(func(g *ledger) { g.appendAll(batches) })
	err := w.log.AppendAll(w.t.Context(), w.ledger.end, batches)
	doubt, bounds := w.outcome(err)
	w.end(err == nil || doubt && bounds.End.Batch == batches[len(batches)-1].Batch.ID)
}

func (w *work) scrub() {
	w.t.Helper()
	var positions []int64
	for p := 1 + w.rand.Int64N(w.ledger.end.Position-1); p < w.ledger.end.Position && len(positions) < 30; p += 1 + w.rand.Int64N(2) {
		positions = append(positions, p)
	}
	w.begin(func(g *ledger) { g.scrub(positions) })
	err := w.log.Scrub(w.t.Context(), positions)
	doubt, _ := w.outcome(err)
	done := err == nil
	if doubt {
		done = w.gone(positions)
	}
	w.end(done)
}

// gone tells whether positions were scrubbed for which the ledger does not say so yet.
func (w *work) gone(positions []int64) bool {
	w.t.Helper()
	for _, p := range positions {
		if w.ledger.entries[p-1].Meta == nil {
			continue
		}
		err := w.log.Values(w.t.Context(), []int64{p}, make([][]byte, 1))
		if err != nil && !errors.Is(err, drivers.ErrScrubbed) {
			w.t.Fatal(err)
		}
		return err != nil
	}
	return false
}

// TestOneFault lets each operation on the files fail once, in a sequence of
// appends, scrubs, checkpoints and defragmentations.
func TestOneFault(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	for errno, part := range map[syscall.Errno]int{
		syscall.EIO: 50,
		// As if the rest of what stood there was the same by chance.
		syscall.ENOSPC: 100,
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			for at, more := 0, true; more; at++ {
				n := 0 // operations so far
				disk := &faultfs.Disk{Fail: func(op faultfs.Op) faultfs.Verdict {
					if op.Kind == faultfs.Committed && errno == syscall.ENOSPC {
						return faultfs.Verdict{}
					}
					if n++; n == at+1 {
						return faultfs.Verdict{Errno: errno, Part: op.Size * part / 100}
					}
					return faultfs.Verdict{}
				}}
				oneRun(t, disk, seed, 9)
				more = n > at
				if t.Failed() {
					t.Fatalf("with operation %d failing", at)
				}
			}
		})
	}
}

// oneRun works for some steps on a log with faults. The log is compared with the
// ledger afterwards, as it is, as a crash leaves it, and as a loss of power does.
func oneRun(t *testing.T, disk *faultfs.Disk, seed uint64, steps int) {
	t.Helper()
	w := newWork(t, disk, disk, seed)
	for range steps {
		w.step()
	}
	w.losePower()
	w.checkImages()
	copies := t.TempDir()
	for _, name := range []string{"log.db", "log.db-wal"} {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(w.log.opts.Path), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(copies, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.ledger.compareFiles(t, filepath.Join(copies, "log.db")); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	w.finish()
}

// newWork opens a log on a disk, through a hook that asks the disk.
func newWork(t *testing.T, disk *faultfs.Disk, h faultfs.Hook, seed uint64) *work {
	t.Helper()
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	fail := disk.Fail
	disk.Fail = nil
	faultfs.Set(h)
	l, err := Open(t.Context(), Options{
		Path: filepath.Join(t.TempDir(), "log.db"), CheckpointBytes: 32 << 10, vfs: faultfs.Name,
		// With the small one pages go to the write-ahead log in the middle of a transaction, and are read and changed there.
		WriterCache: []int64{4 << 20, 8 << 10}[seed%2],
		Logger:      slog.New(slog.DiscardHandler),
	})
	disk.Fail = fail
	if err != nil {
		t.Fatal(err)
	}
	disk.Add(l.opts.Path)
	throughDisk(l, disk)
	return &work{t: t, log: l, disk: disk, rand: rand.New(rand.NewPCG(seed, 0)), imageRand: rand.New(rand.NewPCG(seed, 1))}
}

// finish compares the log as it is, closes it without faults and compares what it leaves.
func (w *work) finish() {
	w.t.Helper()
	w.disk.Fail = nil
	defer faultfs.Set(nil)
	if err := w.ledger.compare(w.log); err != nil {
		w.t.Errorf("as it is: %v", err)
	}
	// A descriptor may still have an error to tell.
	if err := w.log.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
	if err := w.ledger.compareFiles(w.t, w.log.opts.Path); err != nil {
		w.t.Errorf("after it was closed: %v", err)
	}
}

// image is what a loss of power left, and what must be in it.
type image struct {
	dir    string
	ledger *ledger
}

// losePower keeps what a loss of power would leave now.
func (w *work) losePower() {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := w.disk.LosePower(dir, w.imageRand); err != nil {
		w.t.Fatal(err)
	}
	w.images = append(w.images, image{dir, w.ledger.clone()})
}

func (w *work) checkImages() {
	w.t.Helper()
	for i, m := range w.images {
		if err := m.ledger.compareFiles(w.t, filepath.Join(m.dir, "log.db")); err != nil {
			w.t.Errorf("after loss of power %d: %v", i, err)
		}
	}
	w.images = nil
}

// interloper looks at each operation before the disk does, unlocked.
type interloper struct {
	*faultfs.Disk
	look func(op faultfs.Op)
}

func (i *interloper) Before(op faultfs.Op) faultfs.Verdict {
	if op.Kind != faultfs.Read {
		i.look(op)
	}
	return i.Disk.Before(op)
}

// quiet says that an append of values up to 1000 bytes would wait neither for the token nor, by what it adds to the write-ahead log, for the checkpoint that is under way.
func (w *work) quiet() bool {
	return len(w.log.token) == 0 && w.log.checkpointer.size.Load() < 2*w.log.opts.CheckpointBytes
}

// TestManyFaults lets power fail at random moments while operations fail
// at random too, and appends come in the middle of checkpoints.
func TestManyFaults(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 2))
		errnos := []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
		left, calm := 0, false
		disk := &faultfs.Disk{Fail: func(op faultfs.Op) faultfs.Verdict {
			if calm {
				return faultfs.Verdict{}
			}
			if left--; left > 0 || r.IntN(4) != 0 && op.Kind != faultfs.Sync {
				return faultfs.Verdict{}
			}
			if left < -r.IntN(4) {
				left = 20 + r.IntN(100)
			}
			return faultfs.Verdict{Errno: errnos[r.IntN(len(errnos))], Part: r.IntN(max(op.Size, 1))}
		}}
		h := &interloper{Disk: disk, look: func(faultfs.Op) {}}
		w := newWork(t, disk, h, seed)
		busy := false
		h.look = func(op faultfs.Op) {
			if busy {
				return
			}
			busy = true
			defer func() { busy = false }()
			switch k := r.IntN(100); {
			case k < 2:
				w.losePower()
			case k < 30 && w.quiet() && !isWAL(op):
				// Beside a checkpoint. If this failed it would wait for that.
				calm = true
				w.appendUpTo(1000)
				calm = false
			}
		}
		for range 80 {
			w.step()
		}
		h.look = func(faultfs.Op) {}
		disk.Fail = nil
		w.losePower()
		w.checkImages()
		w.finish()
		if t.Failed() {
			t.Fatalf("seed %#x, %d operations failed", seed, w.failed)
		}
	}
}

// TestDoubtAboutSpaceIsNobodysBusiness: what became of a slice of a defragmentation does not matter to appends.
func TestDoubtAboutSpaceIsNobodysBusiness(t *testing.T) {
	d := &doubt{n: 2} // not yet
	l := faulty(t, d, Options{})
	l.checkpointer.openWAL = d.openWAL(l)
	end := goOn(t, l, 100, 20, 300)
	scrubExcept(t, l, end, 3)
	d.n = 0
	if err := l.Defragment(t.Context()); !errors.Is(err, drivers.ErrUncertain) {
		t.Fatalf("got %v", err)
	}
	if err := l.Append(t.Context(), end, newBatch(1, nil)); err != nil {
		t.Error(err)
	}
	if err := l.Defragment(t.Context()); err != nil {
		t.Error(err)
	}
}

// throughDisk puts what the driver does past SQLite on the disk too.
func throughDisk(l *Log, disk faultfs.Hook) {
	path := l.opts.Path
	l.checkpointer.file = direct{file: l.file, hook: disk, path: path}
	l.checkpointer.openWAL = func() (walFile, error) {
		f, err := os.OpenFile(path+"-wal", os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		return direct{file: f, hook: disk, path: path + "-wal"}, nil
	}
}

// direct is a file that the driver reaches past SQLite.
type direct struct {
	file *os.File
	hook faultfs.Hook
	path string
}

func (d direct) ReadAt(p []byte, offset int64) (int, error) { return d.file.ReadAt(p, offset) }
func (d direct) Stat() (os.FileInfo, error)                 { return d.file.Stat() }
func (d direct) Close() error                               { return d.file.Close() }

func (d direct) WriteAt(p []byte, offset int64) (int, error) {
	v := d.hook.Before(faultfs.Op{Kind: faultfs.Write, Path: d.path, Offset: offset, Size: len(p), Data: p})
	if v.Errno == 0 {
		return d.file.WriteAt(p, offset)
	}
	n, err := d.file.WriteAt(p[:min(v.Part, len(p))], offset)
	return n, errors.Join(v.Errno, err)
}

func (d direct) Truncate(size int64) error {
	if v := d.hook.Before(faultfs.Op{Kind: faultfs.Truncate, Path: d.path, Offset: size}); v.Errno != 0 {
		return v.Errno
	}
	return d.file.Truncate(size)
}

func (d direct) Sync() error {
	if v := d.hook.Before(faultfs.Op{Kind: faultfs.Sync, Path: d.path}); v.Errno != 0 {
		return v.Errno
	}
	err := d.file.Sync()
	if err == nil {
		d.hook.Synced(d.path)
	}
	return err
}
