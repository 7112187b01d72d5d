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

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// NetworkOptions say who this member is, and who wants to know what becomes of its messages.
type NetworkOptions struct {
	// Cluster and Self are this member's ids.
	Cluster, Self uint64
	// Origin is what this member's cluster began with; 0: an empty log.
	Origin uint64
	// TLS gives the configuration for https and unixs URLs, at each handshake. Nil if there is none.
	TLS func() *tls.Config
	// Count gives who counts what passes between this member and another one, always the same for a member. Optional.
	Count func(id uint64) Counter
	// Logger hears of connections that come and go. Nil discards.
	Logger *slog.Logger
	// Unreachable is told that messages to a member were lost, once for each loss that follows on something sent,
	// and perhaps once for each of the connections to it. Optional.
	Unreachable func(id uint64)
	// SnapshotLost is told that a MsgSnap did not reach the member, or may not have: its stream broke some
	// time after it. Raft waits for a snapshot until it is told. Optional.
	SnapshotLost func(id uint64)
	// Removed is told that another member says that this one was removed, and again as long as it says so. Optional.
	Removed func(by uint64)
	// Unbegun tells whether this member has never had an entry of the Raft log. It is asked at each call. Optional.
	Unbegun func() bool
	// Begun is told that another member knows this one, while Unbegun, as one that had. Optional.
	Begun func(by uint64)
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
	at      atomic.Pointer[peerpb.Whereabouts] // nil: not known

	mu     sync.RWMutex
	peers  map[uint64]*peer
	closed bool
}

// peer is another member.
type peer struct {
	urls []string // sorted
	// next are where the member is said to be now, while there are connections to where it was. Nil: it has not moved. Guarded by Network.mu.
	next    []string
	cancel  context.CancelFunc
	appends *link
	control *link
	calls   *link // carries no Raft messages
	forward *forwarder
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
		o.Removed = func(uint64) {}
	}
	if o.Unbegun == nil {
		o.Unbegun = func() bool { return false }
	}
	if o.Begun == nil {
		o.Begun = func(uint64) {}
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

// SetPeers says who the other members are and where. Connections to those that are gone are closed; calls on them fail. Those to
// a member that has moved stay as long as one of them is whole: its URLs are changed before it is started again to listen there. It does not wait for anything.
func (n *Network) SetPeers(urls map[uint64][]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for id, p := range n.peers {
		list, known := urls[id]
		switch known = known && id != n.o.Self; {
		case known && slices.Equal(p.urls, slices.Sorted(slices.Values(list))):
			p.next = nil
		case known && p.connected():
			p.next = list
		default:
			p.close()
			delete(n.peers, id)
		}
	}
	for id, list := range urls {
		if id != n.o.Self && n.peers[id] == nil {
			n.add(id, list)
		}
	}
}

// Located takes note of where this member is reached, as the log says at a position, and tells the others. What it said at an earlier position has no effect.
func (n *Network) Located(urls []string, position int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at.Load().GetPosition() >= position {
		return
	}
	n.at.Store(&peerpb.Whereabouts{PeerUrls: urls, Position: position})
	for _, p := range n.peers {
		p.calls.tell()
	}
}

// add begins to connect to a member. The mutex is held.
func (n *Network) add(id uint64, urls []string) {
	p, err := n.connect(id, urls)
	if err != nil {
		n.o.Logger.Error("cannot connect to a member", "member", hex(id), "error", err)
		return
	}
	n.peers[id] = p
}

// follow goes after a member that has moved, if the last connection to where it was has broken. One of several may have by itself, and comes back there.
func (n *Network) follow(id uint64, p *peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.peers[id] != p || p.next == nil || p.connected() {
		return
	}
	p.close()
	delete(n.peers, id)
	n.add(id, p.next)
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
			p.calls, err = n.link(id, "calls", addresses)
		}
	}
	if err != nil {
		p.closeConns()
		return nil, err
	}
	p.calls.queue.told = true // nothing can be lost there, so its end is no loss
	p.calls.at = n.at.Load
	p.forward = newForwarder(p.calls.conn)
	ctx, cancel := context.WithCancel(n.ctx)
	p.cancel = cancel
	if of := n.counter(id); of != nil {
		for _, l := range p.links() {
			l.queue.dropped = of.SendFailed
		}
		p.calls.gone = of.Disconnected
		n.running.Go(func() { probe(ctx, p.control.conn, of) })
	}
	for _, l := range p.links() {
		l.broke = func() { n.follow(id, p) }
		n.running.Go(func() { l.run(ctx) })
	}
	return p, nil
}

func (n *Network) link(id uint64, carries string, addresses []resolver.Address) (*link, error) {
	conn, err := n.dial(id, addresses)
	if err != nil {
		return nil, err
	}
	return &link{id: id, carries: carries, conn: conn, queue: newQueue(), telling: make(chan struct{}, 1), reports: n.reports, log: n.o.Logger}, nil
}

func (n *Network) dial(id uint64, addresses []resolver.Address) (*grpc.ClientConn, error) {
	who := caller{cluster: n.o.Cluster, from: n.o.Self, to: id, origin: n.o.Origin}
	o := dialOptions{tls: n.o.TLS, timeout: n.o.DialTimeout, silence: maxSilence, count: n.counter(id)}
	return o.dial(addresses, grpc.WithUnaryInterceptor(n.unary(who)), grpc.WithStreamInterceptor(n.stream(who)))
}

// counter gives who counts for a member, nil if nobody does.
func (n *Network) counter(id uint64) Counter {
	if n.o.Count == nil {
		return nil
	}
	return n.o.Count(id)
}

func (p *peer) links() []*link { return []*link{p.control, p.appends, p.calls} }

// connected tells whether any of the connections is whole.
func (p *peer) connected() bool {
	return slices.ContainsFunc(p.links(), func(l *link) bool { return l.active.Load() != 0 })
}

// close lets the goroutines end; Network.running waits for them.
func (p *peer) close() {
	p.cancel()
	p.closeConns()
}

func (p *peer) closeConns() {
	for _, l := range p.links() {
		if l != nil {
			l.conn.Close()
		}
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
			if of := n.counter(m.GetTo()); of != nil {
				of.SendFailed(1)
			}
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
	return p.calls.conn, nil
}

// ActiveSince gives the time from which on a member has been connected without a break, the zero time if it is not.
func (n *Network) ActiveSince(id uint64) time.Time {
	if p := n.peer(id); p != nil {
		if t := p.calls.active.Load(); t != 0 {
			return time.Unix(0, t)
		}
	}
	return time.Time{}
}

// Retry tries now to connect to a member that shows that it is there, instead of when the next attempt is due.
func (n *Network) Retry(id uint64) {
	if p := n.peer(id); p != nil {
		for _, l := range p.links() {
			// What is not waiting for that has nothing to be told. And gRPC goes through its transports here without a lock, so this must not be while it makes them.
			if l.conn.GetState() == connectivity.TransientFailure {
				l.conn.ResetConnectBackoff()
			}
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
