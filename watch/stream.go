package watch

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// The errors of streams; their texts are etcd's, since clients see them as cancel reasons.
var (
	ErrEmptyRange  = errors.New("mvcc: watcher range is empty")
	ErrDuplicateID = errors.New("mvcc: duplicate watch ID provided on the WatchStream")
	ErrNotExist    = errors.New("mvcc: watcher does not exist")
	ErrClosed      = errors.New("watch: stream closed")
)

// NoID is the watch id of answers that speak of no watcher or of all.
const NoID = -1

// Request describes a watcher.
type Request struct {
	// ID is chosen by the client, or 0 to let the stream choose.
	ID    int64
	Range mvcc.Range
	// Start is the first revision wanted, 0 for what comes next.
	Start int64
	// NoPut and NoDelete leave out events of these types.
	NoPut, NoDelete bool
	// PrevKV asks for the versions replaced; Fragment allows a revision to be
	// split over several messages; Progress asks for notifications when nothing else comes.
	PrevKV, Fragment, Progress bool
}

// Response is something to tell the client, in the terms of etcd's WatchResponse.
type Response struct {
	ID       int64
	Revision int64 // the header's
	Created  bool
	Canceled bool
	Reason   string // why it was cancelled
	Compact  int64  // the compact revision, if that is why
	Events   []*Event
	PrevKV   bool // prev_kv is wanted
	Fragment bool // may be split

	w *watcher // whose events they are
}

// watcher is one watch of a stream.
type watcher struct {
	Request
	r      mvcc.Range
	stream *Stream

	// Guarded by Hub.mu.
	next  int64    // W1: the first revision that was not made due, while lagging; none before it is wanted ever
	batch []*Event // of the commit being published

	// Guarded by Stream.mu.
	pending  []*Event // due
	header   int64    // the current revision when the last of them that are of the past were made due
	queued   bool     // in the stream's queue
	current  bool     // synced
	ended    bool     // cancelled by a compaction
	announce bool     // a progress notification is wanted at the next occasion
	active   bool     // told something since the last interval of notifications
}

func (w *watcher) wants(e *Event) bool {
	if e.Main < w.next {
		return false
	}
	if e.Tombstone() {
		return !w.NoDelete
	}
	return !w.NoPut
}

// Stream is one client's watches.
type Stream struct {
	hub   *Hub
	ready chan struct{} // signals that Next has something to do
	taken chan struct{} // signals that the queue has been taken

	mu       sync.Mutex
	watchers map[int64]*watcher
	nextID   int64
	queue    []queued
	bytes    int   // of the events due
	sent     int64 // the highest revision told of, but for progress
	starved  bool  // a watcher was refused for lack of room
	progress bool  // asked for by the client and not answered yet
	announce bool  // a watcher is to be told its progress
	closed   bool
	err      error
}

// queued is a place in the order of what goes out: an answer, or a watcher's due events.
type queued struct {
	answer *Response
	w      *watcher
}

// NewStream opens a stream. It must be closed.
func (h *Hub) NewStream() *Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Streams++
	s := &Stream{hub: h, ready: make(chan struct{}, 1), taken: make(chan struct{}, 1), watchers: make(map[int64]*watcher)}
	h.streams[s] = struct{}{}
	if h.broken != nil {
		s.fail(h.broken)
	}
	return s
}

// Watch adds a watcher and answers that it was created, before any of its events, or that it was not.
func (s *Stream) Watch(r Request) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	published := h.rev.Load()
	// The client may have read a commit that is about to be published.
	rev := max(published, h.store.Index().Rev)
	w, err := s.register(r, rev)
	if err != nil {
		s.answer(&Response{ID: NoID, Revision: rev, Created: true, Canceled: true, Reason: err.Error()})
		return
	}
	h.stats.Watchers++
	if r.Start > 0 && r.Start <= published {
		w.next = r.Start
		// Also where recent events could still be had: to clients, compacted is gone.
		if compact := h.store.Index().Compact; r.Start < compact {
			s.compacted(w, compact)
			return
		}
		h.lagging[w] = struct{}{}
		h.wake()
		return
	}
	if w.next = r.Start; r.Start == 0 {
		w.next = rev + 1
	}
	h.synced.add(w)
	s.synced(w)
}

func (s *Stream) register(r Request, rev int64) (*watcher, error) {
	if r.Range.End != "" && r.Range.Start >= r.Range.End {
		return nil, ErrEmptyRange
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrEmptyRange
	}
	if r.ID == 0 {
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		r.ID = s.nextID
		s.nextID++
	} else if s.watchers[r.ID] != nil {
		return nil, ErrDuplicateID
	}
	w := &watcher{Request: r, r: r.Range, stream: s}
	s.watchers[r.ID] = w
	s.sent = max(s.sent, rev)
	s.queue = append(s.queue, queued{answer: &Response{ID: r.ID, Revision: rev, Created: true}})
	s.signal()
	return w, nil
}

// Cancel ends a watcher and answers so; its due events are dropped.
func (s *Stream) Cancel(id int64) error {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	w := s.watchers[id]
	if w == nil || s.closed {
		s.mu.Unlock()
		return ErrNotExist
	}
	delete(s.watchers, id)
	s.drop(w)
	s.mu.Unlock()
	h.remove(w)
	s.answer(&Response{ID: id, Revision: h.rev.Load(), Canceled: true})
	return nil
}

// remove takes a watcher out of the hub. Called with mu held.
func (h *Hub) remove(w *watcher) {
	h.stats.Watchers--
	h.synced.remove(w)
	delete(h.lagging, w)
}

// RequestProgress asks for an answer that tells how far all watchers of the stream are. It
// comes after the events due, as soon as no watcher lags. As in etcd there is
// none if the stream has no watchers, or one that starts in the future.
func (s *Stream) RequestProgress() {
	rev := s.hub.rev.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	watching := false
	for _, w := range s.watchers {
		if w.Start > rev {
			return
		}
		watching = watching || !w.ended
	}
	if watching {
		s.progress = true
		s.signal()
	}
}

// Notify makes every watcher that asked for progress notifications, and that was told
// nothing since the last call, be told how far it is.
func (s *Stream) Notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		if w.Progress && !w.ended {
			w.announce = !w.active
			w.active = false
			s.announce = s.announce || w.announce
		}
	}
	s.signal()
}

// Close ends the stream and its watchers.
func (s *Stream) Close() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Streams--
	delete(h.streams, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, w := range s.watchers {
		h.remove(w)
		s.drop(w)
	}
	s.queue = nil
	s.signal()
}

// maxAnswers is how many answers may wait before no more requests are taken.
const maxAnswers = 256

// Admit waits until the stream has room for the answer to another request. A client
// that asks and does not read is not listened to.
func (s *Stream) Admit(ctx context.Context) error {
	for {
		s.mu.Lock()
		full := len(s.queue) >= maxAnswers && !s.closed
		s.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-s.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next waits for something to tell the client and gives all of it, in order.
func (s *Stream) Next(ctx context.Context) ([]Response, error) {
	for {
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if responses, err := s.take(); err != nil || len(responses) > 0 {
			return responses, err
		}
	}
}

// take gives what is due. Progress is told last, and with the hub held: no
// commit is half published then, so that it is neither ahead of an event nor behind one.
func (s *Stream) take() ([]Response, error) {
	if s.wantsProgress() {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		out, err := s.takeDue()
		if err != nil {
			return nil, err
		}
		return s.tellProgress(out, s.hub.rev.Load()), nil
	}
	return s.takeDue()
}

func (s *Stream) wantsProgress() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.progress || s.announce
}

func (s *Stream) takeDue() ([]Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.closed {
		return nil, errors.Join(s.err, ErrClosed)
	}
	out := make([]Response, 0, len(s.queue)+1)
	for _, q := range s.queue {
		switch {
		case q.answer != nil:
			out = append(out, *q.answer)
		case q.w.queued:
			w := q.w
			for rest := w.pending; len(rest) > 0; {
				n := responseEvents(rest)
				r := Response{ID: w.ID, Revision: rest[n-1].Main, Events: rest[:n:n], PrevKV: w.PrevKV, Fragment: w.Fragment, w: w}
				if rest = rest[n:]; len(rest) == 0 {
					r.Revision = max(w.header, r.Revision)
				}
				out = append(out, r)
			}
			w.pending, w.header, w.queued, w.active = nil, 0, false, true
			s.sent = max(s.sent, out[len(out)-1].Revision)
		}
	}
	clear(s.queue)
	s.queue, s.bytes = s.queue[:0], 0
	select {
	case s.taken <- struct{}{}:
	default:
	}
	if s.starved {
		s.starved = false
		s.hub.wake()
	}
	return out, nil
}

// responseBytes is how many bytes of events share a response: few enough for clients that take no more than gRPC's default of 4 MiB, previous values
// included. A revision is not divided.
const responseBytes = 1 << 20

// responseEvents tells how many of the events that are due go into the next response.
func responseEvents(events []*Event) int {
	size := 0
	for i, e := range events {
		if i > 0 && size > responseBytes && e.Main != events[i-1].Main {
			return i
		}
		size += len(e.Key) + len(e.Value)
	}
	return len(events)
}

// tellProgress appends what is to be told of progress at the hub's revision. Called with Hub.mu held.
func (s *Stream) tellProgress(out []Response, rev int64) []Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.progress
	if rev < s.sent {
		// The log told of a commit that is about to be published.
		s.hub.waiting = append(s.hub.waiting, s)
		return out
	}
	s.announce = false
	watching := false
	for _, w := range s.watchers {
		if w.ended {
			continue
		}
		watching = true
		told := w.current && w.Start <= rev
		all = all && told
		switch {
		case w.announce && told:
			w.announce = false
			out = append(out, Response{ID: w.ID, Revision: rev})
		case w.announce:
			s.announce = true
		}
	}
	if !watching {
		s.progress = false
		return out
	}
	if all {
		s.progress = false
		out = append(out, Response{ID: NoID, Revision: rev})
	}
	return out
}

// due makes events due for a watcher of the stream, or refuses all of them
// for lack of room. A single batch may exceed the bound. As in etcd, the header of events of the past tells the
// revision that was current when they were looked up, that of others their own: header is the former, or 0.
func (s *Stream) due(w *watcher, events []*Event, header int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	if s.bytes >= s.hub.opts.StreamBytes {
		s.starved, w.current = true, false
		return false
	}
	for _, e := range events {
		s.bytes += e.cost()
	}
	w.pending, w.header = append(w.pending, events...), max(w.header, header)
	if !w.queued {
		w.queued = true
		s.queue = append(s.queue, queued{w: w})
	}
	s.signal()
	return true
}

// room tells whether the stream takes more events, and sees to it that the hub is woken when it does again.
func (s *Stream) room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starved = s.starved || s.bytes >= s.hub.opts.StreamBytes
	return s.bytes < s.hub.opts.StreamBytes
}

// all gives the stream's watchers.
func (s *Stream) all() []*watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.watchers))
}

func (w *watcher) hasEnded() bool {
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	return w.ended
}

// behind notes that a watcher lags.
func (s *Stream) behind(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.current = false
}

func (s *Stream) synced(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.current = true
	s.signal()
}

// compacted ends a watcher whose events are not there any more, as etcd does:
// its id stays taken, and the header has no revision.
func (s *Stream) compacted(w *watcher, compact int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.ended || s.closed {
		return
	}
	w.ended = true
	s.queue = append(s.queue, queued{answer: &Response{ID: w.ID, Canceled: true, Compact: compact}})
	s.signal()
}

// Compacted ends the watcher that a response with events was for, since they cannot be given whole any
// more. It gives what is still true of the rest, the responses after it: progress
// that counts those events is not, and is told again after the watcher's end.
func (s *Stream) Compacted(r *Response, rest []Response) []Response {
	h, w := s.hub, r.w
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	known := s.watchers[w.ID] == w // and not one that was cancelled, or has its id since
	if known {
		s.drop(w)
	}
	rest = slices.DeleteFunc(rest, s.takeBack)
	s.mu.Unlock()
	if known {
		h.synced.remove(w)
		delete(h.lagging, w)
		s.compacted(w, h.store.Index().Compact)
	}
	return rest
}

// takeBack makes a response be told again if it is one of progress. Called with mu held.
func (s *Stream) takeBack(r Response) bool {
	if r.Created || r.Canceled || len(r.Events) > 0 {
		return false
	}
	if r.ID == NoID {
		s.progress = true
	} else if w := s.watchers[r.ID]; w != nil && w.Progress && !w.ended {
		w.announce, s.announce = true, true
	}
	s.signal()
	return true
}

// Encode gives a response's events as they stand in a WatchResponse, see Event.Encode.
// drivers.ErrScrubbed if the watcher is too far behind to be given them: see Compacted.
func (s *Stream) Encode(ctx context.Context, r *Response) ([][]byte, error) {
	encoded := make([][]byte, len(r.Events))
	for i, e := range r.Events {
		var prev func() ([]byte, bool, error)
		if r.PrevKV {
			if i%prevAtOnce == 0 {
				s.hub.prefetch(ctx, r.Events[i:min(i+prevAtOnce, len(r.Events))])
			}
			prev = func() ([]byte, bool, error) { return s.PrevValue(ctx, e) }
		}
		var err error
		if encoded[i], err = e.Encode(prev); err != nil {
			return nil, err
		}
	}
	return encoded, nil
}

// PrevValue fetches the value for an event's prev_kv; ok is false if the event comes without.
// drivers.ErrScrubbed if the watcher is too far behind to be given it: see Compacted.
func (s *Stream) PrevValue(ctx context.Context, e *Event) (value []byte, ok bool, err error) {
	return s.hub.prevValue(ctx, e)
}

// IsScrubbed tells whether an error of PrevValue means that the watcher is too far behind.
func IsScrubbed(err error) bool { return errors.Is(err, drivers.ErrScrubbed) }

func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.signal()
}

// drop forgets the events due for a watcher. Called with mu held.
func (s *Stream) drop(w *watcher) {
	for _, e := range w.pending {
		s.bytes -= e.cost()
	}
	w.pending, w.queued = nil, false
}

func (s *Stream) answer(r *Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, queued{answer: r})
	s.signal()
}

// signal wakes Next.
func (s *Stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Refuse answers a request for a watcher that cannot be made.
func (s *Stream) Refuse(reason string) {
	s.answer(&Response{ID: NoID, Revision: s.hub.rev.Load(), Created: true, Canceled: true, Reason: reason})
}
