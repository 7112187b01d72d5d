package watch

import (
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// client is the client of a stream. It knows what it asked for, and so what it should be told.
type client struct {
	sim    *simulation
	stream *Stream

	served  map[int64]*watching // the watchers that it has asked for, less those that it cancelled
	known   map[int64]*watching // likewise, by what it has been told
	answers []answer            // still to come, in this order
	nextID  int64
	told    int64 // the highest revision it was told of
	mayFail bool  // the log could not be read
	reading bool

	asked, answered int  // requests for progress
	waiting         bool // for an answer to one, which has to come
}

// answer is what a request is answered with.
type answer struct {
	refused  error
	w        *watching // created
	canceled int64     // otherwise: the one cancelled
	least    int64     // the revision of the answer, at least
}

// watching is a watcher, as its client sees it.
type watching struct {
	Request
	served  *watcher
	from    int64 // the first revision wanted
	next    int   // in the simulation's changes: the first that was not received
	upTo    int64 // everything up to this revision has been received
	past    bool  // it started there
	refused bool  // below the compact revision
	compact int64 // the compact revision then
	gaveUp  bool  // prev_kv was gone
	ended   bool

	notified bool // of its progress, at the last revision
}

// wants tells whether an event is to be received.
func (w *watching) wants(e *mvccpb.Event) bool {
	unwanted := e.Type == mvccpb.Event_PUT && w.NoPut || e.Type == mvccpb.Event_DELETE && w.NoDelete
	return e.Kv.ModRevision >= w.from && !unwanted && w.Range.Contains(string(e.Kv.Key))
}

// missing gives the first event up to rev that the watcher has not received, or nil.
func (w *watching) missing(s *simulation, rev int64) *mvccpb.Event {
	for ; w.next < len(s.changes) && s.changes[w.next].Kv.ModRevision <= rev; w.next++ {
		if w.wants(s.changes[w.next]) {
			return s.changes[w.next]
		}
	}
	return nil
}

func (c *client) step() {
	switch n := c.sim.IntN(100); {
	case n < 35:
		c.watch()
	case n < 45:
		c.cancel()
	case n < 75:
		c.read()
	case n < 88:
		c.requestProgress()
	case n < 98:
		c.stream.Notify()
	case !c.reading:
		c.close()
	}
}

// requestProgress asks for progress. As in etcd, there will be an answer if there are watchers and none of them starts in
// the future; it comes when all have everything.
func (c *client) requestProgress() {
	c.stream.RequestProgress()
	c.asked++
	c.waiting = c.waiting || c.watching() && !c.ahead()
}

// ahead tells whether a watcher starts in the future.
func (c *client) ahead() bool {
	for _, w := range c.served {
		if w.Start > c.sim.hub.rev.Load() {
			return true
		}
	}
	return false
}

// watching tells whether any watcher of the stream has not ended, nobody having been told so yet.
func (c *client) watching() bool {
	for _, w := range c.stream.watchers {
		if !w.ended {
			return true
		}
	}
	return false
}

func progresses(responses []Response) bool {
	return slices.ContainsFunc(responses, func(r Response) bool { return r.ID == NoID && !r.Created })
}

func (c *client) close() {
	c.stream.Close()
	c.sim.clients = slices.DeleteFunc(c.sim.clients, func(o *client) bool { return o == c })
}

// watch asks for a watcher, in the past, from now on or in the future.
func (c *client) watch() {
	s := c.sim
	rng := mvcc.NewRange(s.key(), nil)
	switch s.IntN(4) {
	case 0:
		rng = mvcc.NewRange(s.key(), s.key()) // also empty ones
	case 1:
		rng = mvcc.NewRange([]byte{0}, []byte{0})
	}
	r := Request{
		Range: rng, ID: max(0, s.Int64N(8)-4), NoPut: s.IntN(5) == 0, NoDelete: s.IntN(5) == 0,
		PrevKV: s.IntN(2) == 0, Fragment: s.IntN(2) == 0, Progress: s.IntN(2) == 0,
	}
	if s.IntN(3) > 0 {
		r.Start = 1 + s.Int64N(s.ix.Rev+1)
	}
	switch s.IntN(8) {
	case 0:
		r.Start = s.ix.Rev + s.Int64N(4)
	case 1:
		r.Start = max(0, s.ix.Compact)
	}
	a, id := answer{least: s.ix.Rev}, r.ID
	if id == 0 {
		for id = c.nextID; c.served[id] != nil; id++ {
			continue
		}
	}
	switch {
	case rng.End != "" && rng.Start >= rng.End:
		a.refused = ErrEmptyRange
	case c.served[id] != nil:
		a.refused = ErrDuplicateID
	default:
		if r.ID == 0 {
			c.nextID = id + 1
		}
		past := r.Start > 0 && r.Start <= s.hub.rev.Load()
		a.w = &watching{Request: r, from: r.Start, refused: past && r.Start < s.ix.Compact, past: past, compact: s.ix.Compact}
		a.w.ID = id
		c.served[id] = a.w
	}
	c.answers = append(c.answers, a)
	c.stream.Watch(r)
	if a.w != nil {
		a.w.served = c.stream.watchers[id]
	}
}

// cancel cancels a watcher, or one that is not there.
func (c *client) cancel() {
	id := c.sim.Int64N(8)
	err := c.stream.Cancel(id)
	if c.served[id] == nil {
		if !errors.Is(err, ErrNotExist) {
			c.fail("watcher %d, which is not there, was cancelled: %v", id, err)
		}
		return
	}
	if err != nil {
		c.fail("watcher %d cannot be cancelled: %v", id, err)
	}
	delete(c.served, id)
	c.answers = append(c.answers, answer{canceled: id, least: c.sim.hub.rev.Load()})
}

func (c *client) fail(format string, args ...any) {
	c.sim.t.Helper()
	c.sim.t.Fatalf("with %d steps to go: "+format, append([]any{c.sim.steps}, args...)...)
}

// read takes what there is to be told, as Stream.Next does; it gives false if that is nothing.
func (c *client) read() bool {
	if c.reading {
		return false
	}
	select {
	case <-c.stream.ready:
	default:
		return false
	}
	c.reading = true
	defer func() { c.reading = false }()
	responses, err := c.stream.take()
	if err != nil {
		if !c.mayFail || !errors.Is(err, errUnreadable) {
			c.fail("%v", err)
		}
		c.close()
	}
	// A watcher that came after the request may delay the answer until something else is told.
	if progresses(responses) || !c.watching() || c.ahead() {
		c.waiting = false
	}
	for len(responses) > 0 {
		r := &responses[0]
		if responses = responses[1:]; !c.receive(r) {
			c.sim.happening["prev_kv gone"]++
			c.sim.step()
			takenBack := progresses(responses)
			responses = c.stream.Compacted(r, responses)
			c.waiting = c.waiting || takenBack && c.watching()
		}
	}
	return true
}

// receive takes a response; it gives false if the events cannot be had with their prev_kv.
func (c *client) receive(r *Response) bool {
	s := c.sim
	s.step()
	if r.Revision > s.ix.Rev {
		c.fail("%+v is ahead of revision %d", r, s.ix.Rev)
	}
	switch {
	case r.Canceled && r.Compact != 0:
		c.receiveCompacted(r)
	case r.Created || r.Canceled:
		c.receiveAnswer(r)
	case len(r.Events) > 0:
		return c.receiveEvents(r)
	default:
		c.receiveProgress(r)
	}
	return true
}

// receiveAnswer takes an answer: they come in the order of the requests.
func (c *client) receiveAnswer(r *Response) {
	if len(c.answers) == 0 {
		c.fail("%+v answers nothing", r)
	}
	a := c.answers[0]
	c.answers = c.answers[1:]
	want := Response{ID: a.canceled, Revision: r.Revision, Canceled: true}
	switch {
	case a.refused != nil:
		want.ID, want.Created, want.Reason = NoID, true, a.refused.Error()
		c.sim.happening["refused"]++
	case a.w != nil:
		want.ID, want.Created, want.Canceled = a.w.ID, true, false
		if a.w.from == 0 {
			a.w.from = r.Revision + 1
		}
		a.w.upTo = a.w.from - 1
		c.known[a.w.ID] = a.w
		c.told = max(c.told, r.Revision)
	default:
		delete(c.known, a.canceled)
		c.sim.happening["cancelled"]++
	}
	if r.Revision < a.least || !sameAnswer(r, &want) {
		c.fail("%+v instead of %+v, at revision %d or later", r, want, a.least)
	}
}

func sameAnswer(a, b *Response) bool {
	return a.ID == b.ID && a.Created == b.Created && a.Canceled == b.Canceled && a.Reason == b.Reason && len(a.Events)+len(b.Events) == 0
}

// receiveCompacted takes the end of a watcher whose events are gone: one that had not been given
// everything, so that a client could not resume it where it is either.
func (c *client) receiveCompacted(r *Response) {
	w := c.known[r.ID]
	switch {
	case w == nil || w.ended:
		c.fail("%+v is of no watcher", r)
	case r.Revision != 0 || r.Compact > c.sim.ix.Compact || w.upTo+1 >= r.Compact:
		c.fail("%+v, at compact revision %d; the watcher has everything up to %d", r, c.sim.ix.Compact, w.upTo)
	case !w.gaveUp && (w.served.current || c.sim.roomy && !w.past && c.sim.happening["reloaded"] == 0):
		c.fail("%+v ends a watcher that lacks nothing", r)
	}
	w.ended = true
	c.sim.happening["compacted"]++
}

// receiveEvents takes events: those wanted that come next, and all of their last revision.
func (c *client) receiveEvents(r *Response) bool {
	s, w := c.sim, c.known[r.ID]
	if w == nil || w.ended || w.refused || r.PrevKV != w.PrevKV || r.Fragment != w.Fragment {
		c.fail("%+v comes to %+v", r, w)
	}
	events, ok := c.decode(r, w)
	if !ok {
		w.gaveUp = true
		return false
	}
	for _, got := range events {
		want := w.missing(s, got.Kv.ModRevision)
		if want == nil {
			c.fail("the event %v is not wanted by %+v, or came before", got, w)
		}
		w.next++
		want = proto.CloneOf(want)
		switch {
		case !w.PrevKV || want.Kv.ModRevision <= w.compact:
			want.PrevKv = nil // not wanted, or not there any more for any client
		case want.PrevKv != nil && got.PrevKv == nil && want.Kv.ModRevision <= s.ix.Compact:
			want.PrevKv = nil // compacted since
			s.happening["no prev_kv"]++
		}
		if !proto.Equal(got, want) {
			c.fail("the event %v instead of %v to %+v, compact revision %d", got, want, w, s.ix.Compact)
		}
		if want.PrevKv != nil {
			s.happening["prev_kv"]++
		}
		s.happening["events"]++
	}
	last := events[len(events)-1].Kv.ModRevision
	if lacks := w.missing(s, last); lacks != nil || r.Revision < last {
		c.fail("the header says %d, and the last event is of revision %d, of which %v is missing", r.Revision, last, lacks)
	}
	w.upTo, c.told = max(w.upTo, last), max(c.told, r.Revision)
	return true
}

// decode encodes the events of a response and reads them as the client does. It gives false if a prev_kv cannot be had.
func (c *client) decode(r *Response, w *watching) (events []*mvccpb.Event, ok bool) {
	s := c.sim
	for _, e := range r.Events {
		s.step()
		var prev func() ([]byte, bool, error)
		if w.PrevKV {
			prev = func() ([]byte, bool, error) { return c.stream.PrevValue(s.t.Context(), e) }
		}
		b, err := e.Encode(prev)
		if IsScrubbed(err) {
			return nil, false
		}
		var m pb.WatchResponse
		if err == nil {
			err = proto.Unmarshal(b, &m)
		}
		if err != nil || len(m.Events) != 1 {
			c.fail("%d events are encoded: %v", len(m.Events), err)
		}
		events = append(events, m.Events[0])
	}
	return events, true
}

// receiveProgress takes a promise: everything up to a revision has come.
func (c *client) receiveProgress(r *Response) {
	s := c.sim
	if r.Revision < c.told || r.Revision > s.hub.rev.Load() {
		c.fail("%+v, after revision %d was told, with %d published", r, c.told, s.hub.rev.Load())
	}
	c.told = r.Revision
	if r.ID == NoID {
		if c.answered++; c.answered > c.asked {
			c.fail("%+v was not asked for", r)
		}
		for _, w := range c.known {
			c.checkProgress(w, r)
		}
		s.happening["progress"]++
		return
	}
	w := c.known[r.ID]
	if w == nil || w.ended || !w.Progress {
		c.fail("%+v, which nobody wants", r)
	}
	c.checkProgress(w, r)
	w.notified = r.Revision == s.ix.Rev
	s.happening["progress of a watcher"]++
}

func (c *client) checkProgress(w *watching, r *Response) {
	if w.ended {
		return
	}
	if lacks := w.missing(c.sim, r.Revision); lacks != nil || w.Start > r.Revision {
		c.fail("%+v, but %+v has not received %v", r, w, lacks)
	}
	w.upTo = max(w.upTo, r.Revision)
}

// finish asks for progress and reads everything, which has to be all there is.
func (c *client) finish() {
	s := c.sim
	live, ahead := 0, c.ahead()
	for _, w := range c.served {
		if !w.ended {
			live++
		}
	}
	if c.waiting && live > 0 && !ahead {
		c.fail("asked for progress %d times, and no answer to the last time", c.asked)
	}
	before := c.answered
	c.requestProgress()
	s.settle()
	if want := live > 0 && !ahead; want != (c.answered > before) || want && c.told != s.ix.Rev {
		c.fail("%d watchers, one in the future: %v; asked for progress, %d answers at revision %d of %d",
			live, ahead, c.answered-before, c.told, s.ix.Rev)
	}
	if len(c.answers) > 0 || len(c.known) != len(c.served) {
		c.fail("%d answers have not come; %d watchers instead of %d", len(c.answers), len(c.known), len(c.served))
	}
	// A watcher that was told something since the last time is passed over.
	for range 2 {
		c.stream.Notify()
		s.settle()
	}
	for _, w := range c.known {
		if w.Progress && !w.ended && w.Start <= s.ix.Rev && !w.notified {
			c.fail("%+v was not told its progress", w)
		}
		if lacks := w.missing(s, s.ix.Rev); !w.ended && (lacks != nil || w.refused || w.gaveUp) {
			c.fail("%+v has not ended, and not received %v", w, lacks)
		}
	}
}
