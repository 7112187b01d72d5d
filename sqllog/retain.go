package sqllog

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// With Options.Retain the log keeps what was superseded for a while after a compaction has freed it. Nothing else changes: the index is pruned
// as ever, so what clients see, HashKV, snapshots and memory are the same. Only the scrub waits. What is kept is for Changes and Rewound (changes.go, rewound.go).
//
//	T1  An entry waits from the moment on at which it was superseded, not from that at which it was written: what a key held before a mistake may be
//	    years old. So there is a position, the bound, and a scrub removes what entries up to the bound have superseded (mvcc.Freed): what a compaction
//	    there would have freed. Above the bound the log is whole.
//	T2  Of a key an older version is due no later than a newer one, and a put no later than the tombstone after it, and what is due is removed in ascending
//	    order as ever. So a version never outlives the tombstone after it.
//	T3  The bound is where the log ended a retention ago by this process's monotonic clock. For the time before it was started the times of batches count, made
//	    monotonic: one that is later than a later one's is that one's, and a step from one to the next counts for a 24th of the retention at most. So no
//	    clock that has jumped frees what is to be kept, and servers whose clocks differ do no harm. What is lost by it are pauses: in doubt the log keeps more.
//	T4  What waits is kept in mind in some bytes for each entry, and no more of it than waitingBytes: what was superseded last is forgotten first, but for
//	    how much it is, and found again by a survey of the log (survey.go) when it is due. So does a server find it that is started, or becomes the keeper.
//	T5  Retention gives way to writing: while the NOSPACE alarm is raised everything is due that is free, and while Options.Pressed says so the oldest quarter
//	    of what waits is, known or forgotten. An operator who is told to compact, defragment and disarm gets the room by that.
//	T6  What is no change of a key waits, too, though Changes never shows it: leases, their renewals, compactions, barriers. The scrub mark is one position, and says
//	    that nothing above it is missing: were anything newer removed, Extent could not tell from which revision on all is there. Loading lives by it also: it is by
//	    the compactions on the way that what is superseded goes before everything is in memory (load), and by the revocations that Rewound knows which leases have ended.
//
// On a shared log the keeper scrubs, so its retention counts. Members of a cluster by Raft scrub for themselves. All servers should be told the same.

// stampsMost bounds the questions asked for times when a log is opened, clockSteps is how many steps of time make up a retention (T3), and samplesKept about how
// many ends of the log are remembered for one.
const (
	stampsFirst = 64
	stampsMost  = 512
	clockSteps  = 24
	samplesKept = 64
)

// retention knows where the log ended when.
type retention struct {
	period time.Duration

	mu      sync.Mutex
	samples []sample // ascending
}

// sample says that what stands up to a position was there at a moment of this process's clock, which may lie before its start.
type sample struct {
	position int64
	at       time.Time
}

// note takes note of where the log ends now.
func (r *retention) note(position int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if n := len(r.samples); n > 0 && (r.samples[n-1].position >= position || now.Sub(r.samples[n-1].at) < r.period/samplesKept) {
		return
	}
	r.samples = append(r.samples, sample{position, now})
}

// bound gives the highest position that is known to have been there a retention ago, 0 if none is, and forgets what came before.
func (r *retention) bound() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, n := time.Now(), 0
	for n < len(r.samples) && now.Sub(r.samples[n].at) >= r.period {
		n++
	}
	if n == 0 {
		return 0
	}
	r.samples = slices.Clone(r.samples[n-1:])
	return r.samples[0].position
}

// stamp is the time that the log gives for what stands up to a position, in milliseconds.
type stamp struct{ position, at int64 }

// begin takes the times of a log, ascending by position, that ends now (T3).
func (r *retention) begin(stamps []stamp) {
	now, step := time.Now(), int64(r.period/clockSteps/time.Millisecond)
	samples := make([]sample, 0, len(stamps))
	var age int64
	later := int64(math.MaxInt64)
	for _, s := range slices.Backward(stamps) {
		if later != math.MaxInt64 {
			age += min(max(later-s.at, 0), step)
		}
		later = min(later, s.at)
		samples = append(samples, sample{s.position, now.Add(-time.Duration(age) * time.Millisecond)})
	}
	slices.Reverse(samples)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = samples
}

// recall asks the log for times of its batches: some at equal distances, and more where those differ much.
func (s *Store) recall(ctx context.Context) error {
	bounds, err := s.log.ReadIndex(ctx)
	if err != nil {
		return err
	}
	from, end := bounds.Scrubbed, bounds.End.Position
	if end == 0 {
		return nil
	}
	r := recall{s: s, ctx: ctx, step: int64(s.opts.Retain / clockSteps / time.Millisecond), left: stampsMost}
	first := make([]stamp, 0, stampsFirst+1)
	for i := range int64(stampsFirst) {
		p := from + (end-1-from)*i/(stampsFirst-1)
		if n := len(first); p < 0 || n > 0 && first[n-1].position == p {
			continue
		}
		if err := r.ask(&first, p); err != nil {
			return err
		}
	}
	r.stamps = first
	for i := len(first) - 1; i > 0; i-- {
		if err := r.refine(first[i-1], first[i]); err != nil {
			return err
		}
	}
	slices.SortFunc(r.stamps, func(a, b stamp) int { return int(a.position - b.position) })
	s.retention.begin(r.stamps)
	return nil
}

type recall struct {
	s      *Store
	ctx    context.Context
	step   int64
	left   int
	stamps []stamp
}

// ask adds the stamp of a position: what stands up to it is no newer than the first batch that ends after it.
func (r *recall) ask(to *[]stamp, position int64) error {
	r.left--
	at, err := r.s.writtenAfter(r.ctx, position)
	if err == nil && at != 0 {
		*to = append(*to, stamp{position, at})
	}
	return err
}

func (r *recall) refine(a, b stamp) error {
	mid := a.position + (b.position-a.position)/2
	if r.left <= 0 || mid == a.position || b.at-a.at <= r.step {
		return nil
	}
	n := len(r.stamps)
	if err := r.ask(&r.stamps, mid); err != nil || len(r.stamps) == n {
		return err
	}
	m := r.stamps[n]
	if err := r.refine(m, b); err != nil {
		return err
	}
	return r.refine(a, m)
}

// timesAtOnce is how many entries are read at once in search of the one that closes a batch.
const timesAtOnce = 256

// writtenAfter gives the time of the first batch whose end stands after a position, 0 if there is none.
func (s *Store) writtenAfter(ctx context.Context, position int64) (at int64, err error) {
	end := s.index.Load().End.Position
	for n := int64(timesAtOnce); position < end && at == 0 && err == nil; n *= 2 {
		upTo := min(position+n, end)
		err = s.log.Scan(ctx, drivers.ScanOptions{After: position, UpTo: upTo, Times: true}, func(entries []drivers.Entry) error {
			for i := range entries {
				if at = entries[i].Written; at != 0 {
					return errEnough
				}
			}
			return nil
		})
		position = upTo
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return at, err
}

// due gives the bound for a Prune of now: what entries up to it have superseded is to be removed. early is set where retention gives way to Options.Pressed.
func (s *Store) due(ctx context.Context) (bound int64, early bool) {
	ix := s.index.Load()
	if s.opts.Retain <= 0 || ix.Alarmed(int32(pb.AlarmType_NOSPACE)) {
		return math.MaxInt64, false
	}
	s.retention.note(ix.End.Position)
	bound = s.retention.bound()
	// Asked only where there is something to give: asking may take a while.
	if quarter := s.backlog.waiting.quarter(); quarter > bound && s.opts.Pressed != nil && s.opts.Pressed(ctx, s.needed) {
		return quarter, true
	}
	return bound, false
}

// Due tells whether something that was kept for Options.Retain is to be removed by now, which the next Prune does. It is to be
// called now and then.
func (s *Store) Due(ctx context.Context) bool {
	if s.opts.Retain <= 0 {
		return false
	}
	select {
	case s.pruning <- struct{}{}:
		defer func() { <-s.pruning }()
	default:
		return false
	}
	bound, _ := s.due(ctx)
	return s.backlog.waiting.due(bound) || s.backlog.waiting.lacks(bound)
}

// needed is what the log has that is not superseded, or is kept: entries, and the bytes of keys and values.
func (s *Store) needed() (entries, bytes int64) {
	entries, bytes = s.index.Load().Versions()
	k := s.backlog.waiting.all()
	return entries + k.Entries, bytes + k.Bytes
}

// Kept is what the log has though a compaction has freed it, of what this server would scrub.
type Kept struct {
	Entries int64
	// Bytes are those of keys and values.
	Bytes int64
	// Others are those of the entries that are no changes of keys (T6).
	Others int64
}

// entryWeight is what an entry is taken to need beside its key and value, when it is said which part of what is kept is a quarter.
const entryWeight = 96

func (k *Kept) count(f mvcc.Freed) {
	k.Entries++
	k.Bytes += f.Size
	if f.Size == 0 {
		k.Others++
	}
}

func (k *Kept) add(other Kept) {
	k.Entries += other.Entries
	k.Bytes += other.Bytes
	k.Others += other.Others
}

func (k Kept) weight() int64 { return k.Bytes + entryWeight*k.Entries }

// Kept tells what was kept when the last Prune had ended.
func (s *Store) Kept() Kept {
	if k := s.kept.Load(); k != nil {
		return *k
	}
	return Kept{}
}
