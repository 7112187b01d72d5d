package script

import (
	"context"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (p *Player) watchCommand(name string) command {
	switch name {
	case "watch":
		return p.watchCreate
	case "cancel":
		return p.watchCancel
	case "cancelid":
		return p.watchCancelID
	case "closestream":
		return p.closeStream
	case "events":
		return p.events
	case "progress":
		return p.progress
	case "notified":
		return p.notified
	case "fragments":
		return p.fragments
	}
	return p.awaitRevision
}

func (p *Player) watchCreate(_ context.Context, w *words, _ []string) (string, error) {
	name := w.next("name")
	r, streamName := w.watchRequest(), w.text("stream")
	if err := w.done(); err != nil {
		return "", err
	}
	s, err := p.watch.openStream(p, streamName)
	if err != nil {
		return "", err
	}
	created := &watch{name: name, stream: s, request: r, compacted: r.StartRevision > 0 && r.StartRevision < p.compacted}
	if err := p.watch.create(created); err != nil {
		return errorText(err), nil
	}
	p.watch.watches = append(p.watch.watches, created)
	p.watch.byName[name] = created
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	switch {
	case created.created != nil:
		return p.answer(created.created, nil), nil
	case s.err != nil:
		return errorText(s.err), nil
	}
	return "BREACH: the watch was not created in time\n", nil
}

// named finds a watch. A name that is not there is nothing wrong: shrinking a
// script may take the watch away and leave what is done with it.
func (p *Player) named(w *words) (*watch, error) {
	name := w.next("name of a watch")
	return p.watch.byName[name], w.done()
}

const noWatch = "no such watch\n"

func (p *Player) watchCancel(ctx context.Context, w *words, _ []string) (string, error) {
	target, err := p.named(w)
	if err != nil {
		return "", err
	}
	if target == nil || target.created == nil || target.created.Canceled || target.dropped {
		return noWatch, nil
	}
	return p.cancelWatch(ctx, target), nil
}

// cancelWatch waits for the events first: etcd drops those that a cancel overtakes.
func (p *Player) cancelWatch(ctx context.Context, target *watch) string {
	late := p.watch.settle(ctx, p)
	target.dropped = true
	p.watch.mu.Lock()
	before := len(target.log)
	target.canceled = false // it may have been cancelled by a compaction
	p.watch.mu.Unlock()
	if err := sendCancel(target.stream, target.created.WatchId); err != nil {
		return late + errorText(err)
	}
	if !p.watch.await(settleTimeout, func() bool { return target.canceled || target.stream.err != nil }) {
		return late + "BREACH: the cancel was not answered\n"
	}
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	if n := len(target.log); n > before && target.log[n-1].control != nil {
		control := target.log[n-1].control
		target.log = target.log[:n-1]
		return late + p.answer(control, nil)
	}
	return late + errorText(target.stream.err)
}

func sendCancel(s *stream, id int64) error {
	return s.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id},
	}})
}

func (p *Player) watchCancelID(ctx context.Context, w *words, _ []string) (string, error) {
	id, streamName := w.nextNumber("watch id"), w.text("stream")
	if err := w.done(); err != nil {
		return "", err
	}
	for _, target := range p.watch.watches {
		if target.stream.name == streamName && !target.dropped && target.created != nil &&
			!target.created.Canceled && target.created.WatchId == id {
			return p.cancelWatch(ctx, target), nil
		}
	}
	s, err := p.watch.openStream(p, streamName)
	if err != nil {
		return "", err
	}
	if err := sendCancel(s, id); err != nil {
		return errorText(err), nil
	}
	return "sent\n", nil
}

func (p *Player) closeStream(ctx context.Context, w *words, _ []string) (string, error) {
	name := w.next("stream")
	if err := w.done(); err != nil {
		return "", err
	}
	if name == "default" {
		name = ""
	}
	s, ok := p.watch.streams[name]
	if !ok {
		return "no such stream\n", nil
	}
	late := p.watch.settle(ctx, p)
	s.cancel()
	<-s.ended
	delete(p.watch.streams, name)
	return late + "closed\n", nil
}

// events writes what every watch got since the last time.
func (p *Player) events(ctx context.Context, w *words, _ []string) (string, error) {
	if err := w.done(); err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString(p.watch.settle(ctx, p))
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	for _, target := range p.watch.watches {
		for _, e := range target.log {
			fmt.Fprintf(&out, "%s: %s\n", target.name, p.entry(e))
		}
		target.log = nil
	}
	for _, name := range slices.Sorted(mapKeys(p.watch.streams)) {
		s := p.watch.streams[name]
		for _, breach := range s.breaches {
			fmt.Fprintf(&out, "stream %q: BREACH: %s\n", name, breach)
		}
		s.breaches = nil
		if s.err != nil {
			fmt.Fprintf(&out, "stream %q: %s", name, errorText(s.err))
		}
	}
	if out.Len() == 0 {
		return "nothing\n", nil
	}
	return out.String(), nil
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (p *Player) entry(e entry) string {
	switch {
	case e.event != nil:
		return p.event(e.event)
	case e.control != nil:
		return strings.TrimRight(p.answer(e.control, nil), "\n")
	}
	return e.breach
}

// progressIsDue says whether etcd answers a progress request on this stream at
// all: never without watches, nor with one that is not yet at its start. With a
// watch that a compaction cancelled, nobody knows.
func (p *Player) progressIsDue(s *stream) (due, defined bool) {
	due, defined = false, true
	for _, w := range p.watch.watches {
		if w.stream != s || w.dropped || w.created == nil || w.created.Canceled {
			continue
		}
		if w.compacted {
			return false, false
		}
		if w.request.StartRevision > p.revision {
			return false, true
		}
		due = true
	}
	return due, true
}

func (p *Player) progress(ctx context.Context, w *words, _ []string) (string, error) {
	name := ""
	if len(w.pos) > 0 {
		name = w.next("stream")
	}
	if err := w.done(); err != nil {
		return "", err
	}
	s, err := p.watch.openStream(p, name)
	if err != nil {
		return "", err
	}
	late := p.watch.settle(ctx, p)
	due, defined := p.progressIsDue(s)
	if !defined {
		return late + "nobody knows: a watch of the stream was compacted\n", nil
	}
	if !due {
		if err := s.client.Send(progressRequest()); err != nil {
			return late + errorText(err), nil
		}
		return late + "no answer is due\n", nil
	}
	if !p.watch.askProgress(p, s) {
		return late + "BREACH: progress was not answered\n", nil
	}
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	return late + fmt.Sprintf("progress rev=%d\n", s.progress), nil
}

// notified waits for the server's own notification for one watch.
func (p *Player) notified(ctx context.Context, w *words, _ []string) (string, error) {
	target, err := p.named(w)
	if err != nil || target == nil {
		return noWatch, err
	}
	late := p.watch.settle(ctx, p)
	if !p.watch.await(settleTimeout, func() bool { return target.progress >= p.revision }) {
		return late + "BREACH: no notification\n", nil
	}
	return late + fmt.Sprintf("progress rev=%d\n", target.progress), nil
}

func (p *Player) fragments(ctx context.Context, w *words, _ []string) (string, error) {
	target, err := p.named(w)
	if err != nil || target == nil {
		return noWatch, err
	}
	late := p.watch.settle(ctx, p)
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	return late + fmt.Sprintf("fragmented=%t over_limit=%t unfinished=%t\n",
		target.fragments > 0, target.largest > p.fragmentSizeLimit, target.unfinished), nil
}

// awaitRevision waits for something the server does by itself, such as an expiry.
func (p *Player) awaitRevision(_ context.Context, w *words, _ []string) (string, error) {
	revision := w.nextNumber("revision")
	if err := w.done(); err != nil {
		return "", err
	}
	if !p.watch.await(2*settleTimeout, func() bool { return p.watch.auditor.last >= revision }) {
		return fmt.Sprintf("BREACH: the store did not get to revision %d\n", revision), nil
	}
	p.revision = max(p.revision, revision)
	return fmt.Sprintf("rev=%d\n", p.watch.auditor.lastRevision()), nil
}
