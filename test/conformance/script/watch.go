package script

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// settleTimeout is how long events may take to arrive before they count as lost.
const settleTimeout = 5 * time.Second

// progressRetry is how often an unanswered progress request is sent again: etcd
// answers none while a watch of the stream is catching up.
const progressRetry = 50 * time.Millisecond

// watchState holds the watches of a player. What the streams have received is
// guarded by mu; the rest is the player's goroutine's.
type watchState struct {
	// auditor watches everything from the beginning on its own stream. What it
	// has seen says which events are due to the other watches.
	auditor *watch
	streams map[string]*stream
	watches []*watch
	byName  map[string]*watch

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever a stream received something
}

// open starts the auditor at a revision, 0 for now. What an earlier one has
// seen is kept.
func (ws *watchState) open(p *Player, start int64) error {
	var seen []*mvccpb.Event
	if ws.auditor != nil {
		seen = ws.auditor.events
	}
	ws.streams, ws.byName, ws.watches = map[string]*stream{}, map[string]*watch{}, nil
	ws.changed = make(chan struct{})
	s, err := ws.openStream(p, "auditor")
	if err != nil {
		return err
	}
	ws.auditor = &watch{name: "auditor", stream: s, request: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: start,
	}, events: seen}
	if err := ws.create(ws.auditor); err != nil {
		return fmt.Errorf("script: watch of everything: %w", err)
	}
	created := ws.auditor.created
	if created == nil || created.Canceled || created.Header == nil {
		return fmt.Errorf("script: the watch of everything was not created: %v", created)
	}
	ws.auditor.last = max(start-1, 1)
	if start == 0 {
		ws.auditor.last = created.Header.Revision
	}
	return nil
}

func (ws *watchState) closeAll() {
	for _, s := range ws.streams {
		s.cancel()
		<-s.ended
	}
	ws.streams, ws.byName, ws.watches = nil, nil, nil
}

// await blocks until condition, called under mu, holds, and says whether it did.
func (ws *watchState) await(timeout time.Duration, condition func() bool) bool {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		ws.mu.Lock()
		ok, changed := condition(), ws.changed
		ws.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

// create sends a watch's request and waits for the answer to it.
func (ws *watchState) create(w *watch) error {
	ws.mu.Lock()
	w.stream.creating = append(w.stream.creating, w)
	ws.mu.Unlock()
	err := w.stream.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: w.request}})
	if err != nil {
		return err
	}
	ws.await(settleTimeout, func() bool { return w.created != nil || w.stream.err != nil })
	return nil
}

// settle waits until every watch has what is due to it. What does not come in
// time is named, once.
func (ws *watchState) settle(_ context.Context, p *Player) string {
	var late strings.Builder
	timeout := settleTimeout
	if !ws.auditor.gaveUp && !ws.await(timeout, func() bool {
		return ws.auditor.last >= p.revision || ws.auditor.stream.err != nil
	}) {
		ws.auditor.gaveUp = true
		fmt.Fprintf(&late, "BREACH: no event of revision %d came to a watch of everything, the last was %d\n",
			p.revision, ws.auditor.lastRevision())
	}
	for _, w := range ws.watches {
		if w.gaveUp || ws.await(timeout, func() bool { return w.settled(ws.auditor) }) {
			continue
		}
		w.gaveUp = true
		fmt.Fprintf(&late, "BREACH: %s got %d events of %d that are due\n", w.name, len(w.events), w.due)
	}
	return late.String()
}

// catchUp waits until the watches that began in the past are no longer behind,
// also those that have nothing to get: until then a compaction cancels them. A
// progress answer says so; where none is due, the events of a watch that was
// created after all others do, in etcd.
func (ws *watchState) catchUp(ctx context.Context, p *Player) string {
	late := ws.settle(ctx, p)
	barrier := false
	for _, s := range ws.streams {
		behind := slices.ContainsFunc(ws.watches, func(w *watch) bool {
			return w.stream == s && !w.dropped && w.request.StartRevision > 0 && !w.caughtUp
		})
		if !behind {
			continue
		}
		if due, defined := p.progressIsDue(s); due && defined {
			if !ws.askProgress(p, s) {
				late += "BREACH: progress was not answered\n"
			}
		} else {
			barrier = true
		}
	}
	if barrier && p.revision > 1 {
		late += ws.barrier(p)
	}
	for _, w := range ws.watches {
		w.caughtUp = w.caughtUp || w.request.StartRevision <= p.revision
	}
	return late
}

func (ws *watchState) barrier(p *Player) string {
	s, err := ws.openStream(p, "barrier")
	if err != nil {
		return errorText(err)
	}
	w := &watch{name: "barrier", stream: s, request: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: p.revision,
	}}
	if err := ws.create(w); err != nil {
		return errorText(err)
	}
	late := ""
	if !ws.await(settleTimeout, func() bool { return len(w.events) > 0 || w.canceled || s.err != nil }) {
		late = fmt.Sprintf("BREACH: a watch of everything from %d on got nothing\n", p.revision)
	}
	s.cancel()
	<-s.ended
	delete(ws.streams, "barrier")
	return late
}

// askProgress asks until the answer is at the newest revision.
func (ws *watchState) askProgress(p *Player, s *stream) bool {
	ws.mu.Lock()
	s.progressDue = true
	ws.mu.Unlock()
	for deadline := time.Now().Add(settleTimeout); time.Now().Before(deadline); {
		if err := s.client.Send(progressRequest()); err != nil {
			return false
		}
		if ws.await(progressRetry, func() bool { return s.progress >= p.revision || s.err != nil }) {
			return s.err == nil
		}
	}
	return false
}

func progressRequest() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// stream is one Watch RPC.
type stream struct {
	name     string
	client   pb.Watch_WatchClient
	cancel   context.CancelFunc
	ended    chan struct{}
	byID     map[int64]*watch
	creating []*watch
	// progress is the highest revision of an answer for the whole stream, and
	// progressDue whether one has ever been due.
	progress    int64
	progressDue bool
	breaches    []string
	err         error
}

func (ws *watchState) openStream(p *Player, name string) (*stream, error) {
	if s, ok := ws.streams[name]; ok {
		return s, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, err := pb.NewWatchClient(p.server.Conn()).Watch(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("script: watch stream: %w", err)
	}
	s := &stream{name: name, client: client, cancel: cancel, ended: make(chan struct{}), byID: map[int64]*watch{}}
	ws.streams[name] = s
	go ws.receive(s)
	return s, nil
}

// receive takes in a stream's responses until it breaks.
func (ws *watchState) receive(s *stream) {
	defer close(s.ended)
	for {
		resp, err := s.client.Recv()
		ws.mu.Lock()
		if err != nil {
			s.err = err
		} else {
			s.take(resp)
		}
		close(ws.changed)
		ws.changed = make(chan struct{})
		ws.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *stream) breach(format string, args ...any) {
	s.breaches = append(s.breaches, fmt.Sprintf(format, args...))
}

// take hands a response to the watch that it is for.
func (s *stream) take(resp *pb.WatchResponse) {
	if resp.Created {
		if len(s.creating) == 0 {
			s.breach("created without a request: %v", resp)
			return
		}
		w := s.creating[0]
		s.creating = s.creating[1:]
		w.created = resp
		if !resp.Canceled {
			s.byID[resp.WatchId] = w
		}
		if len(resp.Events) > 0 {
			s.breach("events in the answer that a watch is created")
		}
		return
	}
	w := s.byID[resp.WatchId]
	switch {
	case w == nil && resp.WatchId == -1 && len(resp.Events) == 0 && !resp.Canceled:
		s.takeProgress(resp)
	case w == nil:
		s.breach("response for the unknown watch id %d with %d events", resp.WatchId, len(resp.Events))
	case resp.Canceled:
		w.canceled = true
		w.log = append(w.log, entry{control: resp})
	case len(resp.Events) == 0:
		w.progress = max(w.progress, resp.Header.GetRevision())
	default:
		w.take(resp)
	}
}

func (s *stream) takeProgress(resp *pb.WatchResponse) {
	if !s.progressDue {
		s.breach("an answer about progress at revision %d that was not due", resp.Header.GetRevision())
	}
	s.progress = max(s.progress, resp.Header.GetRevision())
	for _, w := range s.byID { // the promise is for the watches that there are now
		w.progress = max(w.progress, resp.Header.GetRevision())
	}
}

// entry is one thing that came to a watch: an event, or a response without events.
type entry struct {
	event   *mvccpb.Event
	control *pb.WatchResponse
	breach  string
}

// watch is one watch of a script.
type watch struct {
	name    string
	stream  *stream
	request *pb.WatchCreateRequest
	// compacted means that the watch starts below the compact revision, so that
	// it is due to be cancelled. dropped means that the client has cancelled it.
	compacted, dropped bool
	gaveUp, caughtUp   bool
	due, audited       int // events that are due, and events of the auditor that were counted

	created    *pb.WatchResponse
	canceled   bool
	events     []*mvccpb.Event
	log        []entry // not yet written
	last       int64   // mod_revision of the last event
	progress   int64
	unfinished bool // the last response was a fragment with more to come
	fragments  int
	largest    int
}

// lastRevision may be called by the player's goroutine between requests.
func (w *watch) lastRevision() int64 { return w.last }

// from is the first revision whose events are due.
func (w *watch) from() int64 {
	if w.request.StartRevision > 0 {
		return w.request.StartRevision
	}
	return w.created.GetHeader().GetRevision() + 1
}

// settled counts what is due, by what the auditor has seen.
func (w *watch) settled(auditor *watch) bool {
	if w.created == nil || w.created.Canceled || w.canceled || w.dropped || w.stream.err != nil {
		return true
	}
	if w.compacted {
		return false
	}
	for ; w.audited < len(auditor.events); w.audited++ {
		if w.wants(auditor.events[w.audited]) {
			w.due++
		}
	}
	return len(w.events) >= w.due
}

func (w *watch) wants(e *mvccpb.Event) bool {
	for _, f := range w.request.Filters {
		if f == pb.WatchCreateRequest_NOPUT && e.Type == mvccpb.Event_PUT ||
			f == pb.WatchCreateRequest_NODELETE && e.Type == mvccpb.Event_DELETE {
			return false
		}
	}
	key := w.request.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	return e.Kv.ModRevision >= w.from() && inRange(e.Kv.Key, key, w.request.RangeEnd)
}
