package raft

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// fabric connects the members of a cluster in one process.
type fabric struct {
	mu   sync.Mutex
	logs map[uint64]*Log
	cut  map[[2]uint64]bool
	// snoop sees the messages that come through, beside the member that they are for. Optional; it is set before there are any.
	snoop func(*raftpb.Message)
	// loses has a message be lost. Optional; it is set before there are any.
	loses func(*raftpb.Message) bool
	// copying is called when a copy begins to be sent. Optional; it is set before there are any.
	copying func(context.Context)
}

func (f *fabric) reaches(from, to uint64) *Log {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut[[2]uint64{from, to}] {
		return nil
	}
	return f.logs[to]
}

// isolate cuts a member off from all others, or heals that.
func (f *fabric) isolate(id uint64, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other := range f.logs {
		f.cut[[2]uint64{id, other}], f.cut[[2]uint64{other, id}] = cut, cut
	}
}

// link is one member's Network.
type link struct {
	fabric *fabric
	id     uint64
	out    chan *raftpb.Message
}

func (l *link) Send(msgs []*raftpb.Message) {
	for _, m := range msgs {
		select {
		case l.out <- proto.Clone(m).(*raftpb.Message):
		default:
		}
	}
}

func (l *link) run(ctx context.Context) {
	for {
		select {
		case m := <-l.out:
			if to := l.fabric.reaches(l.id, m.GetTo()); to != nil {
				if snoop := l.fabric.snoop; snoop != nil {
					snoop(m)
				}
				if loses := l.fabric.loses; loses == nil || !loses(m) {
					if from := l.fabric.reaches(0, l.id); errors.Is(to.Deliver(m), ErrBusy) && from != nil {
						from.Unreachable(m.GetTo())
					}
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

func (l *link) Copy(ctx context.Context, from uint64, receive func(Part) error) error {
	to := l.fabric.reaches(l.id, from)
	if to == nil {
		return errors.New("cut off")
	}
	return to.ServeCopy(ctx, l.id, func(p Part) error {
		if p.Stand != nil && l.fabric.copying != nil {
			l.fabric.copying(ctx)
		}
		return receive(p)
	})
}

// cluster is some members in one process.
type cluster struct {
	t      *testing.T
	fabric *fabric
	dirs   map[uint64]string
	stop   map[uint64]func()
	// copyTimeout is Options.CopyTimeout.
	copyTimeout time.Duration
}

func newCluster(t *testing.T) *cluster {
	t.TempDir() // directories are removed after the members have been closed: cleanups run in the order last added, first called
	c := &cluster{t: t, fabric: &fabric{logs: map[uint64]*Log{}, cut: map[[2]uint64]bool{}}, dirs: map[uint64]string{}, stop: map[uint64]func(){}}
	t.Cleanup(func() {
		for id := range c.stop {
			c.close(id)
		}
	})
	return c
}

func (c *cluster) options(id uint64) Options {
	if c.dirs[id] == "" {
		c.dirs[id] = c.t.TempDir()
	}
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("member", id)
	}
	return Options{
		Database: sqlite.Options{Path: filepath.Join(c.dirs[id], "keelson.db")}, Dir: filepath.Join(c.dirs[id], "raft"),
		HeartbeatInterval: 20 * time.Millisecond, ElectionTimeout: 200 * time.Millisecond, PreVote: true, Timeout: 5 * time.Second, Logger: logger,
		SnapshotCount: 50, CatchUpEntries: 10, CopyTimeout: c.copyTimeout,
	}
}

// network gives a member its place in the fabric.
func (c *cluster) network(l *Log) (func(Identity) (Network, error), func()) {
	ctx, cancel := context.WithCancel(context.Background())
	return func(id Identity) (Network, error) {
		k := &link{c.fabric, id.Member, make(chan *raftpb.Message, 4096)}
		go k.run(ctx)
		c.fabric.mu.Lock()
		defer c.fabric.mu.Unlock()
		c.fabric.logs[id.Member] = l
		return k, nil
	}, cancel
}

// open opens a member, and starts it if it is of a cluster.
func (c *cluster) open(id uint64) *Log {
	c.t.Helper()
	o := c.options(id)
	l, err := Open(c.t.Context(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = l.Run(ctx) }()
	net, stopNet := c.network(l)
	c.stop[id] = func() {
		stopNet()
		cancel()
		<-ran
		if err := l.Close(); err != nil {
			c.t.Errorf("close member %d: %v", id, err)
		}
	}
	if in, err := Clustered(o.Dir); err != nil {
		c.t.Fatal(err)
	} else if in {
		if err := l.Start(net); err != nil {
			c.t.Fatal(err)
		}
	}
	return l
}

func (c *cluster) close(id uint64) {
	c.fabric.mu.Lock()
	delete(c.fabric.logs, id)
	c.fabric.mu.Unlock()
	c.stop[id]()
	delete(c.stop, id)
}

// found makes and opens a cluster of n members.
func (c *cluster) found(n int) {
	c.t.Helper()
	var voters []uint64
	for id := range n {
		voters = append(voters, uint64(id+1))
	}
	for _, id := range voters {
		if err := Bootstrap(c.options(id), Identity{Cluster: 7, Member: id}, voters, drivers.End{}); err != nil {
			c.t.Fatal(err)
		}
		c.open(id)
	}
}

func (c *cluster) log(id uint64) *Log {
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	return c.fabric.logs[id]
}

// leader waits for a member that leads, and that is not the one given.
func (c *cluster) leader(not uint64) (uint64, *Log) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c.fabric.mu.Lock()
		for id, l := range c.fabric.logs {
			if _, _, leading, _ := l.Leader(); leading && id != not {
				c.fabric.mu.Unlock()
				return id, l
			}
		}
		c.fabric.mu.Unlock()
	}
	c.t.Fatal("no member leads")
	return 0, nil
}

// put appends one batch by whoever leads, and gives the end after it.
func (c *cluster) put(size int) drivers.End {
	c.t.Helper()
	return c.putWithout(0, size)
}

// putWithout appends one by another leader than the one given.
func (c *cluster) putWithout(not uint64, size int) drivers.End {
	c.t.Helper()
	for range 100 {
		_, l := c.leader(not)
		b, err := l.ReadIndex(c.t.Context())
		if err != nil {
			continue
		}
		batch := newBatch(3, size)
		switch err := l.Append(c.t.Context(), b.End, batch); {
		case err == nil:
			return drivers.End{Position: b.End.Position + 3, Batch: batch.ID}
		case errors.Is(err, drivers.ErrConflict), errors.Is(err, drivers.ErrNotLeader), errors.Is(err, drivers.ErrUncertain):
		default:
			c.t.Fatal(err)
		}
	}
	c.t.Fatal("nothing can be appended")
	return drivers.End{}
}

func newBatch(n, size int) *drivers.Batch {
	b := &drivers.Batch{Time: time.Now(), Server: 9}
	_, _ = rand.Read(b.ID[:])
	for i := range n {
		b.Entries = append(b.Entries, drivers.Entry{Kind: 1, Meta: fmt.Appendf(nil, "meta %d", i), Value: make([]byte, size)})
	}
	return b
}

// same waits until a member has the log up to an end, and compares all of it with another's.
func (c *cluster) same(a, b uint64, end drivers.End) {
	c.t.Helper()
	var got [2][]string
	for i, id := range []uint64{a, b} {
		ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
		defer cancel()
		err := c.log(id).Follow(ctx, drivers.End{}, func(b *drivers.Batch) error {
			for _, e := range b.Entries {
				got[i] = append(got[i], fmt.Sprintf("%d %d %q %x %x", e.Position, e.Kind, e.Meta, e.Value, b.ID))
			}
			if b.ID == end.Batch {
				return errSeen
			}
			return nil
		})
		if !errors.Is(err, errSeen) {
			c.t.Fatalf("member %d does not get to %v: %v", id, end, err)
		}
	}
	if fmt.Sprint(got[0]) != fmt.Sprint(got[1]) {
		c.t.Fatalf("members %d and %d have different logs of %d and %d entries", a, b, len(got[0]), len(got[1]))
	}
}

var errSeen = errors.New("seen")
