package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

var _ drivers.Shared = (*Log)(nil)

// Load implements drivers.Shared.
func (l *Log) Load(ctx context.Context, values bool, fn func([]drivers.Entry) error) (drivers.Bounds, error) {
	f, err := l.suffer(ctx, OpScan)
	if err != nil {
		return drivers.Bounds{}, err
	}
	s := l.store
	s.mu.Lock()
	bounds := drivers.Bounds{End: s.endLocked(), Scrubbed: s.scrubbed}
	var entries []drivers.Entry
	for i, r := range s.records {
		if r != nil {
			entries = append(entries, r.entry(int64(i)+1, values))
		}
	}
	s.mu.Unlock()
	for part := range slices.Chunk(entries, scanSlice) {
		if err := l.usable(ctx); err != nil {
			return drivers.Bounds{}, err
		}
		if err := fn(part); err != nil {
			return drivers.Bounds{}, err
		}
	}
	return bounds, f.Err
}

// Epoch implements drivers.Shared. Unlike a database's, it is known at once.
func (l *Log) Epoch() uint64 {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.store.epoch
}

// ScrubIn implements drivers.Shared.
func (l *Log) ScrubIn(ctx context.Context, epoch uint64, positions []int64) error {
	return l.scrub(ctx, func() error {
		if l.store.epoch != epoch {
			return fmt.Errorf("scrub in epoch %d: %w: it is %d", epoch, drivers.ErrEpoch, l.store.epoch)
		}
		return l.store.scrubLocked(positions)
	})
}

// turn is held by one log at a time.
type turn struct {
	log    *Log
	bounds drivers.Bounds
	once   sync.Once
}

// Hold implements drivers.Shared. A turn here does not end by itself.
func (l *Log) Hold(ctx context.Context) (drivers.Turn, error) {
	if l.isUncertain() {
		return nil, drivers.ErrUnresolved
	}
	if _, err := l.suffer(ctx, OpHold); err != nil {
		return nil, err
	}
	select {
	case l.store.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, drivers.ErrClosed
	}
	t := &turn{log: l, bounds: l.store.Bounds()}
	l.mu.Lock()
	l.turn = t
	l.mu.Unlock()
	return t, nil
}

// Bounds implements drivers.Turn.
func (t *turn) Bounds() drivers.Bounds { return t.bounds }

// Release implements drivers.Turn.
func (t *turn) Release() {
	t.once.Do(func() {
		t.log.mu.Lock()
		t.log.turn = nil
		t.log.mu.Unlock()
		<-t.log.store.turns
	})
}

// takeTurn waits for the end of others' turns, unless it is this log's. end gives the turn back.
func (l *Log) takeTurn(ctx context.Context) (end func(), err error) {
	l.mu.Lock()
	t := l.turn
	l.mu.Unlock()
	if t != nil {
		return t.Release, nil
	}
	select {
	case l.store.turns <- struct{}{}:
		return func() { <-l.store.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, drivers.ErrClosed
	}
}

// Moved implements drivers.Shared.
func (l *Log) Moved(ctx context.Context, than drivers.End) error {
	for {
		l.store.mu.Lock()
		end, moved := l.store.endLocked(), l.store.moved
		l.store.mu.Unlock()
		l.mu.Lock()
		own := l.own
		l.mu.Unlock()
		if end != than && end != own {
			return l.usable(ctx)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return drivers.ErrClosed
		}
	}
}

// present is a server that has announced itself.
type present struct {
	drivers.Server
	since, seen time.Time
}

// Announce implements drivers.Shared, by the process's clock.
func (l *Log) Announce(ctx context.Context, self drivers.Server) ([]drivers.Server, error) {
	if _, err := l.suffer(ctx, OpAnnounce); err != nil {
		return nil, err
	}
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	at := slices.IndexFunc(s.servers, func(p present) bool { return p.ID == self.ID })
	switch {
	case at < 0 && !self.Leaving:
		s.servers = append(s.servers, present{self, now, now})
	case self.Leaving:
		if at >= 0 && s.servers[at].Instance == self.Instance {
			s.servers = slices.Delete(s.servers, at, at+1)
		}
	case at >= 0 && s.servers[at].Instance == self.Instance:
		s.servers[at] = present{self, s.servers[at].since, now}
	case at >= 0:
		s.servers[at] = present{self, now, now}
	}
	slices.SortStableFunc(s.servers, func(a, b present) int { return a.since.Compare(b.since) })
	var alive []drivers.Server
	for _, p := range s.servers {
		if now.Sub(p.seen) < drivers.PresenceTTL {
			alive = append(alive, p.Server)
		}
	}
	return alive, nil
}
