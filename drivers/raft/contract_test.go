package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/drivertest"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// nowhere is the network of a member without others.
type nowhere struct{}

func (nowhere) Send([]*raftpb.Message) {}
func (nowhere) Copy(context.Context, uint64, func(Part) error) error {
	return errors.New("there is nobody")
}

// running is a log with its work in the background, whose next write can be made to seem uncertain.
type running struct {
	*Log
	cancel context.CancelFunc
	ended  chan struct{}
	doubt  atomic.Pointer[drivertest.Doubt]
}

func runLog(l *Log) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Log: l, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		_ = l.Run(ctx)
	}()
	return r
}

func (r *running) Close() error {
	r.cancel()
	<-r.ended
	return r.Log.Close()
}

func (r *running) Append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	return r.uncertain(func() error { return r.Log.Append(ctx, after, batch) })
}

func (r *running) Scrub(ctx context.Context, positions []int64) error {
	return r.uncertain(func() error { return r.Log.Scrub(ctx, positions) })
}

// uncertain does something, or not, and says that it is not known, as when the lead is lost meanwhile.
func (r *running) uncertain(do func() error) error {
	d := r.doubt.Swap(nil)
	if d == nil {
		return do()
	}
	if d.Done {
		if err := do(); err != nil {
			return err
		}
	}
	r.unresolved.Store(true)
	return fmt.Errorf("made up: %w", drivers.ErrUncertain)
}

func TestContract(t *testing.T) {
	for _, member := range []bool{false, true} {
		t.Run(map[bool]string{false: "Alone", true: "Member"}[member], func(t *testing.T) {
			options := func(place string) Options {
				return Options{
					Database: sqlite.Options{Path: filepath.Join(place, "keelson.db")}, Dir: filepath.Join(place, "raft"),
					SnapshotCount: 20, CatchUpEntries: 5, Logger: slog.New(slog.DiscardHandler),
				}
			}
			drivertest.Run(t, drivertest.Harness{
				Durable: true,
				New: func(t *testing.T) string {
					place := t.TempDir()
					if member {
						if err := Bootstrap(options(place), Identity{Cluster: 1, Member: 1}, []uint64{1}, drivers.End{}); err != nil {
							t.Fatal(err)
						}
					}
					return place
				},
				Open: func(place string) (drivertest.Log, error) {
					l, err := Open(context.Background(), options(place))
					if err != nil {
						return nil, err
					}
					if member {
						if err := l.Start(func(Identity) (Network, error) { return nowhere{}, nil }); err != nil {
							return nil, errors.Join(err, l.Close())
						}
						l.node.Load().post(func() { _ = l.node.Load().rn.Campaign() })
						if err := l.AwaitLeader(context.Background()); err != nil {
							return nil, err
						}
					}
					return runLog(l), nil
				},
				Doubt: func(_ *testing.T, l drivertest.Log, d drivertest.Doubt) { l.(*running).doubt.Store(&d) },
			})
		})
	}
}
