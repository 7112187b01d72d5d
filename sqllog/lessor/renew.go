package lessor

import (
	"context"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Renew starts the TTL of a lease anew and gives it in seconds. A lease that
// has expired is not renewed: Renew waits until it is revoked. mvcc.ErrLeaseNotFound if there is none.
func (l *Lessor) Renew(ctx context.Context, id int64) (int64, error) {
	if l.shared() {
		// The log decides what comes first, this or an expiry.
		ttl, err := l.store.Do(ctx, &mvcc.Renew{ID: id}, 0)
		if err != nil {
			return 0, err
		}
		return ttl.(int64), nil
	}
	l.mu.Lock()
	if !l.counts() {
		l.mu.Unlock()
		return 0, drivers.ErrNotLeader
	}
	le, ok := l.leases[id]
	term, ceded := l.term, l.ceded
	if !ok {
		l.mu.Unlock()
		return 0, l.confirm(ctx, term, mvcc.ErrLeaseNotFound)
	}
	if le.expiring || !time.Now().Before(le.deadline) {
		l.mu.Unlock()
		var halted <-chan struct{}
		if l.opts.Halted != nil {
			halted = l.opts.Halted()
		}
		select {
		case <-le.gone:
			return 0, mvcc.ErrLeaseNotFound
		case <-ceded:
			return 0, drivers.ErrNotLeader // who counts now may have given it more time
		case <-halted:
			return 0, drivers.ErrNoLeader // likewise
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	old, renewed := le.deadline, time.Now().Add(le.ttl)
	l.extend(le, renewed)
	le.renewed = true
	checkpointed, recording := le.recorded < le.ttl || le.doubtful != nil, le.recording
	l.mu.Unlock()
	if checkpointed || recording != nil {
		if err := l.takeBack(ctx, le, term, recording); err != nil {
			l.mu.Lock()
			// Another renewal may have succeeded since.
			if le.deadline.Equal(renewed) {
				l.extend(le, old)
			}
			l.mu.Unlock()
			return 0, err
		}
	}
	return int64(le.ttl / time.Second), l.confirm(ctx, term, nil)
}

// confirm gives an answer, if this server still counts in the same term: otherwise another one may have ended the lease meanwhile, or knows of it. That it led after
// the renewal is enough. Whoever leads next gives a lease what the log says is left, and a renewal has taken back less than the whole.
func (l *Lessor) confirm(ctx context.Context, term uint64, answer error) error {
	if l.opts.Lead == nil {
		return answer
	}
	if _, err := l.store.Linearizable(ctx); err != nil {
		return err
	}
	// A follower's question is answered too.
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counts() || l.term != term {
		return drivers.ErrNotLeader
	}
	return answer
}

// takeBack makes the log say that a lease has its whole TTL: after the
// checkpoint in flight, which would have the last word otherwise. A lease that was granted with its id meanwhile
// is left alone.
func (l *Lessor) takeBack(ctx context.Context, le *lease, term uint64, recording <-chan struct{}) error {
	if recording != nil {
		select {
		case <-recording:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.mu.Lock()
	doubtful := le.doubtful
	l.mu.Unlock()
	_, err := l.store.Do(ctx, &mvcc.Checkpoint{Term: term, Leases: []mvcc.Remaining{{ID: le.id, Grant: le.grant}}}, 0)
	if err == nil {
		l.mu.Lock()
		// Another one may be in doubt since.
		if le.doubtful == doubtful {
			le.doubtful = nil
		}
		l.mu.Unlock()
	}
	return err
}
