package sqllog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// snapshot gives the index that a read is answered from.
func (s *Store) snapshot(ctx context.Context, serializable bool) (*mvcc.Index, error) {
	if serializable {
		return s.index.Load(), s.refused()
	}
	return s.Linearizable(ctx)
}

// read runs a read under the fence. If values it needs were scrubbed all the
// same, it runs once more on a newer index: what that index shows is kept.
func (s *Store) read(ctx context.Context, serializable bool, fn func(*mvcc.Index, mvcc.Values) error) error {
	for attempt := 0; ; attempt++ {
		err := s.readOnce(ctx, serializable, fn)
		switch {
		case !errors.Is(err, drivers.ErrScrubbed):
			return err
		case attempt == readAttempts:
			return fmt.Errorf("%w: %w", ErrStorage, err)
		}
		if serializable && s.followed != nil {
			// Another server has freed what this one's index still shows.
			if err := s.takeIn(ctx); err != nil {
				return err
			}
		}
	}
}

const readAttempts = 10

func (s *Store) readOnce(ctx context.Context, serializable bool, fn func(*mvcc.Index, mvcc.Values) error) error {
	t := s.fence.enter()
	defer s.fence.leave(t)
	ix, err := s.snapshot(ctx, serializable)
	if err != nil {
		return err
	}
	return fn(ix, func(positions []int64) ([][]byte, error) { return s.fetch(ctx, positions) })
}

// Range decides a RangeRequest, linearizable unless it asks otherwise, and
// gives what it selects with the values, which are shared and not to be changed.
func (s *Store) Range(ctx context.Context, r *pb.RangeRequest) (sel *mvcc.Selection, got [][]byte, err error) {
	err = s.read(ctx, r.Serializable, func(ix *mvcc.Index, values mvcc.Values) error {
		if sel, err = ix.Select(r, values); err == nil {
			got, err = sel.Fetch(values)
		}
		return err
	})
	return sel, got, err
}

// ReadTxn answers a transaction for which mvcc.ReadOnly holds.
func (s *Store) ReadTxn(ctx context.Context, r *pb.TxnRequest) (resp *pb.TxnResponse, err error) {
	err = s.read(ctx, mvcc.Serializable(r), func(ix *mvcc.Index, values mvcc.Values) error {
		res := mvcc.ReadTxn(ix, mvcc.Env{Values: values}, r)
		if res.Err != nil {
			return res.Err
		}
		resp = res.Response.(*pb.TxnResponse)
		return mvcc.Fetch(res.Fills, values)
	})
	return resp, err
}

// RangeStream answers a RangeRequest in chunks of about chunkBytes. All speak of the revision at which it began; only the last
// one has a header, whether there is more, and the count. The request
// must not ask for another order or for bounds on revisions.
//
// It does not stand in the fence: what it needs is freed by a compaction above its revision only, which ends it
// as it does in etcd. So nobody waits for a client that does not read.
func (s *Store) RangeStream(ctx context.Context, r *pb.RangeRequest, chunkBytes int, send func(*pb.RangeResponse) error) error {
	ix, err := s.snapshot(ctx, r.Serializable)
	if err != nil {
		return err
	}
	values := func(positions []int64) ([][]byte, error) {
		v, err := s.fetch(ctx, positions)
		if errors.Is(err, drivers.ErrScrubbed) {
			err = mvcc.ErrCompacted
		}
		return v, err
	}
	return ix.Chunks(r, chunkBytes, values, func(resp *pb.RangeResponse, fills []mvcc.Fill) error {
		if now := s.index.Load(); r.Revision > 0 && r.Revision < now.Compact || ix.Rev < now.Compact {
			return mvcc.ErrCompacted
		}
		if err := mvcc.Fetch(fills, values); err != nil {
			return err
		}
		return send(resp)
	})
}

// History gives the events of revision from and later, up to the current revision of ix, to fn, with values,
// in slices that end with a revision's last event. fn ends it by
// returning false. Events that a compaction freed meanwhile may be missing: the caller compares the compact
// revision of the current index, which knows of every compaction then, whatever server made it.
func (s *Store) History(ctx context.Context, ix *mvcc.Index, from int64, fn func([]*mvcc.Event) bool) (err error) {
	var herr error
	h := history{ix: ix, from: from, fn: func(events []*mvcc.Event) bool {
		if herr = s.current(ctx); herr != nil {
			return false
		}
		return fn(events)
	}}
	err = s.scan(ctx, ix, from, h.take)
	if err == nil {
		err = h.flush()
	}
	switch {
	case herr != nil:
		return herr
	case errors.Is(err, errEnough):
		return nil
	case err != nil:
		return err
	}
	return s.current(ctx)
}

// scan gives what an index is made of, from a revision on, with values: nothing if that is nothing, whatever others have appended since.
func (s *Store) scan(ctx context.Context, ix *mvcc.Index, from int64, fn func([]drivers.Entry) error) error {
	if ix.End.Position == 0 {
		return nil // UpTo would mean all that there is now
	}
	return s.log.Scan(ctx, drivers.ScanOptions{After: ix.Before(from), UpTo: ix.End.Position, Values: true}, fn)
}

// current brings the index to the end of the log, if others may have appended to it: for a replica to the end of what this server has. What
// was scrubbed there, also where it came from elsewhere, was compacted before that.
func (s *Store) current(ctx context.Context) error {
	switch {
	case s.replica != nil && s.replica.Known().End.Position > s.index.Load().End.Position:
		return s.takeIn(ctx)
	case s.shared == nil:
		return nil
	}
	_, err := s.Linearizable(ctx)
	return err
}

// Slices of history are cut at the first end of a revision after this many events or bytes.
const (
	historyEvents = 1000
	historyBytes  = 1 << 20
)

var errEnough = errors.New("enough")

type history struct {
	ix      *mvcc.Index
	from    int64
	fn      func([]*mvcc.Event) bool
	pending []*mvcc.Event
	bytes   int
}

func (h *history) take(entries []drivers.Entry) error {
	for i := range entries {
		events, err := h.ix.Events(&entries[i], h.from)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			continue
		}
		if n := len(h.pending); n > 0 && h.pending[n-1].Main != events[0].Main && (n >= historyEvents || h.bytes >= historyBytes) {
			if err := h.flush(); err != nil {
				return err
			}
		}
		h.pending = append(h.pending, events...)
		h.bytes += len(entries[i].Meta) + len(entries[i].Value)
	}
	return nil
}

func (h *history) flush() error {
	if len(h.pending) == 0 {
		return nil
	}
	events := h.pending
	h.pending, h.bytes = nil, 0
	if !h.fn(events) {
		return errEnough
	}
	return nil
}

// Hash is a HashKV with what it was computed for.
type Hash struct {
	Sum      uint32
	Revision int64 // the revision hashed
	Compact  int64 // the compact revision it was judged by
	Current  int64 // the current revision then
}

// HashKV computes etcd's HashKV at a revision, 0 for the current one. It reads the whole log.
func (s *Store) HashKV(ctx context.Context, rev int64) (Hash, error) {
	return s.hash(ctx, rev, false)
}

// HashHere is HashKV of what this server has of the log, whether there is a leader or not.
func (s *Store) HashHere(ctx context.Context, rev int64) (Hash, error) {
	return s.hash(ctx, rev, true)
}

func (s *Store) hash(ctx context.Context, rev int64, here bool) (Hash, error) {
	for {
		ix, err := s.snapshot(ctx, here)
		if err != nil {
			return Hash{}, err
		}
		if h, ok := s.hashes.at(rev, ix); ok {
			return h, nil
		}
		switch {
		case rev > 0 && rev < ix.Compact:
			return Hash{}, mvcc.ErrCompacted
		case rev > ix.Rev:
			return Hash{}, mvcc.ErrFutureRev
		}
		at := rev
		if at == 0 {
			at = ix.Rev
		}
		h := ix.NewHasher(at)
		err = s.scan(ctx, ix, 1, func(entries []drivers.Entry) error {
			for i := range entries {
				if err := h.Add(&entries[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return Hash{}, fmt.Errorf("%w: %w", ErrStorage, err)
		}
		if err := s.current(ctx); err != nil {
			return Hash{}, err
		}
		if s.index.Load().Compact == ix.Compact {
			sum := Hash{Sum: h.Sum(), Revision: at, Compact: ix.Compact, Current: ix.Rev}
			s.hashes.add(sum)
			return sum, nil
		}
		// A compaction came in between, and may have freed what was still to be read.
	}
}

// hashes remembers the last hashes computed. etcd answers a revision that was
// just compacted with the hash from before; so does this, if anybody asked before.
type hashes struct {
	mu   sync.Mutex
	last []Hash
}

const rememberedHashes = 10

func (h *hashes) add(sum Hash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = append(h.last, sum)
	h.last = h.last[max(len(h.last)-rememberedHashes, 0):]
}

// at gives the hash remembered for the compact revision of the index, if that is asked for.
func (h *hashes) at(rev int64, ix *mvcc.Index) (Hash, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sum := range h.last {
		if rev > 0 && rev == ix.Compact && sum.Revision == rev {
			sum.Current = ix.Rev
			return sum, true
		}
	}
	return Hash{}, false
}
