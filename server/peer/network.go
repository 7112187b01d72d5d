package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// NetworkOptions say who this member is, and who wants to know what becomes of its messages.
type NetworkOptions struct {
	// Cluster and Self are this member's ids.
	Cluster, Self uint64
	// TLS gives the configuration for https and unixs URLs, at each handshake. Nil if there is none.
	TLS func() *tls.Config
	// Logger hears of connections that come and go. Nil discards.
	Logger *slog.Logger
	// Unreachable is told that messages to a member were lost, once for each loss that follows on something sent,
	// and perhaps once for each of the two streams. Optional.
	Unreachable func(id uint64)
	// SnapshotLost is told that a MsgSnap did not reach the member, or may not have: its stream broke some
	// time after it. Raft waits for a snapshot until it is told. Optional.
	SnapshotLost func(id uint64)
	// Removed is told, once, that another member says that this one was removed. Optional.
	Removed func()
	// DialTimeout bounds one attempt to connect to one address; 0 means 1.5 s.
	DialTimeout time.Duration
}

// Network is the connections of a member to the others. Its methods may be called concurrently.
//
// A callback may call anything but Close, which waits for it.
type Network struct {
	o       NetworkOptions
	reports *reports
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.RWMutex
	peers  map[uint64]*peer
	closed bool
}

// peer is another member.
type peer struct {
	urls    []string // sorted
	cancel  context.CancelFunc
	appends *link
	control *link
	calls   *grpc.ClientConn
	// since is the time from which on calls has been connected, in nanoseconds; 0: it is not.
	since atomic.Int64
}

// NewNetwork returns a Network without peers. It must be closed.
func NewNetwork(o NetworkOptions) *Network {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Unreachable == nil {
		o.Unreachable = func(uint64) {}
	}
	if o.SnapshotLost == nil {
		o.SnapshotLost = func(uint64) {}
	}
	if o.Removed == nil {
		o.Removed = func() {}
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = defaultDialTimeout
	}
	n := &Network{o: o, peers: map[uint64]*peer{}}
	n.reports = newReports(&n.o)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.running.Go(func() { n.reports.run(n.ctx) })
	return n
}

// SetPeers says who the other members are and where. Connections to those that are gone or have moved are
// closed; calls on them fail. It does not wait for anything.
func (n *Network) SetPeers(urls map[uint64][]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for id, p := range n.peers {
		if id == n.o.Self || !slices.Equal(p.urls, slices.Sorted(slices.Values(urls[id]))) {
			p.close()
			delete(n.peers, id)
		}
	}
	for id, list := range urls {
		if id == n.o.Self || n.peers[id] != nil {
			continue
		}
		p, err := n.connect(id, list)
		if err != nil {
			n.o.Logger.Error("cannot connect to a member", "member", hex(id), "error", err)
			continue
		}
		n.peers[id] = p
	}
}

// connect starts the connections to a member.
func (n *Network) connect(id uint64, urls []string) (*peer, error) {
	addresses, err := parseURLs(urls)
	if err != nil {
		return nil, err
	}
	p := &peer{urls: slices.Sorted(slices.Values(urls))}
	if p.appends, err = n.link(id, "appends", addresses); err == nil {
		if p.control, err = n.link(id, "control", addresses); err == nil {
			p.calls, err = n.dial(id, addresses)
		}
	}
	if err != nil {
		p.closeConns()
		return nil, err
	}
	ctx, cancel := context.WithCancel(n.ctx)
	p.cancel = cancel
	n.running.Go(func() { p.appends.run(ctx) })
	n.running.Go(func() { p.control.run(ctx) })
	n.running.Go(func() { p.stayConnected(ctx) })
	return p, nil
}

func (n *Network) link(id uint64, carries string, addresses []resolver.Address) (*link, error) {
	conn, err := n.dial(id, addresses, grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	return &link{id: id, carries: carries, conn: conn, queue: newQueue(), reports: n.reports, log: n.o.Logger}, nil
}

func (n *Network) dial(id uint64, addresses []resolver.Address, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	who := caller{cluster: n.o.Cluster, from: n.o.Self, to: id}
	more = append(more, grpc.WithUnaryInterceptor(n.unary(who)), grpc.WithStreamInterceptor(n.stream(who)))
	return dialOptions{tls: n.o.TLS, timeout: n.o.DialTimeout}.dial(addresses, more...)
}

// stayConnected connects again what has become idle, so that a call finds a connection, and keeps since.
func (p *peer) stayConnected(ctx context.Context) {
	for {
		state := p.calls.GetState()
		switch state {
		case connectivity.Ready:
			p.since.CompareAndSwap(0, time.Now().UnixNano())
		case connectivity.Idle:
			p.since.Store(0)
			p.calls.Connect()
		default:
			p.since.Store(0)
		}
		if !p.calls.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// close lets the goroutines end; Network.running waits for them.
func (p *peer) close() {
	p.cancel()
	p.closeConns()
}

func (p *peer) closeConns() {
	for _, l := range []*link{p.appends, p.control} {
		if l != nil {
			l.conn.Close()
		}
	}
	if p.calls != nil {
		p.calls.Close()
	}
}

func (n *Network) peer(id uint64) *peer {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.peers[id]
}

// Send sends messages to their members, or drops them; it never waits. The order of those to one member is kept among
// the MsgApps, and among the others. The messages must not be changed any more.
func (n *Network) Send(messages []*raftpb.Message) {
	for _, m := range messages {
		p := n.peer(m.GetTo())
		switch {
		case p == nil:
			n.reports.lost(m.GetTo(), loss{unreachable: true, snapshot: m.GetType() == raftpb.MsgSnap})
		case m.GetType() == raftpb.MsgApp || len(m.GetEntries()) > 0:
			p.appends.send(m)
		default:
			p.control.send(m)
		}
	}
}

// Conn gives the connection for calls to a member, which stays the Network's. Calls fail at once while the
// member cannot be reached.
func (n *Network) Conn(id uint64) (*grpc.ClientConn, error) {
	p := n.peer(id)
	if p == nil {
		return nil, fmt.Errorf("%w: %x", ErrUnknownPeer, id)
	}
	return p.calls, nil
}

// ActiveSince gives the time from which on a member has been connected, the zero time if it is not.
func (n *Network) ActiveSince(id uint64) time.Time {
	p := n.peer(id)
	if p == nil {
		return time.Time{}
	}
	if t := p.since.Load(); t != 0 {
		return time.Unix(0, t)
	}
	return time.Time{}
}

// Retry tries now to connect to a member that shows that it is there, instead of when the next attempt is due.
func (n *Network) Retry(id uint64) {
	if p := n.peer(id); p != nil {
		for _, conn := range []*grpc.ClientConn{p.control.conn, p.appends.conn, p.calls} {
			conn.ResetConnectBackoff()
		}
	}
}

// Close closes all connections and waits for everything to end.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	for id, p := range n.peers {
		p.close()
		delete(n.peers, id)
	}
	n.mu.Unlock()
	n.cancel()
	n.running.Wait()
}
