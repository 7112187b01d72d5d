package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/keelson-io/keelson/test/ports"
)

// Target is what a Proxy can stand in front of: a Server, a Bouncer, or another Proxy.
type Target interface {
	// Address is the host and port to connect to.
	Address() string
	// URL is for clients of a database.
	URL(database string) string
}

// Moment is when a connection is cut.
type Moment int

const (
	// BeforeRequest cuts before the server gets to know of the request: it has not been executed.
	BeforeRequest Moment = iota + 1
	// BeforeAnswer cuts when the server has executed the request and answered, and the client does not get
	// to know.
	BeforeAnswer
)

// Proxy forwards connections to a server, and fails them on request. It understands the messages of Postgres, and
// speaks no TLS: clients that ask for it are told so.
//
// Faults last until Heal. All methods may be called by any number of goroutines at the same time.
type Proxy struct {
	port int

	mu       sync.Mutex
	target   Target
	listener net.Listener // nil while connections are refused
	conns    map[*proxied]struct{}
	gate     chan struct{} // closed while bytes may pass
	delay    time.Duration
	trigger  *trigger // the one that waits for its request

	work sync.WaitGroup // accepting and forwarding
}

// trigger is a cut that waits for its moment.
type trigger struct {
	pattern []byte
	when    Moment
	fired   chan struct{}
}

// StartProxy starts a proxy in front of a server.
func StartProxy(target Target) (*Proxy, error) {
	p := &Proxy{target: target, conns: map[*proxied]struct{}{}, gate: make(chan struct{})}
	close(p.gate)
	for try := 0; ; try++ {
		var err error
		if p.port, err = ports.Free(); err != nil {
			return nil, fmt.Errorf("pg: proxy: %w", err)
		}
		if err = p.admit(); err == nil {
			return p, nil
		}
		if try == 5 {
			return nil, fmt.Errorf("pg: proxy: %w", err)
		}
	}
}

// Address is the host and port that the proxy listens on.
func (p *Proxy) Address() string { return ports.At(p.port) }

// URL is the target's, by way of the proxy.
func (p *Proxy) URL(database string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	u, err := url.Parse(p.target.URL(database))
	if err != nil {
		panic(fmt.Sprintf("a URL made by this package: %v", err))
	}
	u.Host = p.Address()
	return u.String()
}

// Redirect sends the connections made from now on to another server, as a failover does. Those that are there stay.
func (p *Proxy) Redirect(target Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Refuse refuses new connections. Those that are there stay.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close() // nothing of it is needed any more
		p.listener = nil
	}
}

// Cut ends all connections at once, by a reset of both sides.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.cut()
	}
}

// BlackHole keeps all connections open and lets nothing pass, in either direction. New ones are accepted. Heal
// delivers what has been held back, as far as it is still wanted.
func (p *Proxy) BlackHole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default:
	}
}

// Delay lets everything arrive later by this time, in each direction. It does not bound the rate.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// CutAt cuts one connection, the first on which a client executes a statement whose text or arguments contain the
// pattern, in upper or lower case. It need not be sent with its text, but may have been prepared before. The
// channel is closed when it is done. There is one such cut at a time: a second takes the place of the first
// that has not come to pass.
//
// BeforeAnswer holds back all that the server answers after the request until the client has synchronized, that is,
// asked for the end of the answer. A client that waits for a part of it (Flush in place of Sync) waits for good.
func (p *Proxy) CutAt(pattern string, when Moment) <-chan struct{} {
	fired := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trigger = &trigger{pattern: []byte(pattern), when: when, fired: fired}
	return fired
}

// Heal takes back all faults, and accepts connections again. It does not revive connections.
func (p *Proxy) Heal() error {
	p.mu.Lock()
	p.delay, p.trigger = 0, nil
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
	p.mu.Unlock()
	if err := p.admit(); err != nil {
		return fmt.Errorf("pg: proxy: %w", err)
	}
	return nil
}

// Close ends the proxy and all connections.
func (p *Proxy) Close() error {
	p.Refuse()
	p.Cut()
	p.work.Wait()
	return nil
}

// admit begins to listen, if it does not yet.
func (p *Proxy) admit() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.Address())
	if err != nil {
		return err
	}
	p.listener = l
	p.work.Go(func() { p.accept(l) })
	return nil
}

// accept serves connections until the listener is closed, and cuts what comes in while it is.
func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(pollInterval) // out of descriptors, as a rule: there is no signal of its end
			continue
		}
		c := newProxied(p, client)
		p.mu.Lock()
		if p.listener != l {
			c.cut()
			p.mu.Unlock()
			return
		}
		p.conns[c] = struct{}{}
		p.work.Go(c.serve)
		p.mu.Unlock()
	}
}

// dial connects to the target when bytes may pass.
func (p *Proxy) dial(ctx context.Context) (net.Conn, error) {
	if err := p.pass(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	to := p.target.Address()
	p.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, "tcp", to)
}

// pass returns when bytes may pass.
func (p *Proxy) pass(ctx context.Context) error {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// due is when what arrives now is to be forwarded.
func (p *Proxy) due() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Add(p.delay)
}

// take gives the trigger to the first connection for which matches is true.
func (p *Proxy) take(matches func(*trigger) bool) *trigger {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.trigger
	if t == nil || !matches(t) {
		return nil
	}
	p.trigger = nil
	return t
}

func (p *Proxy) forget(c *proxied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
