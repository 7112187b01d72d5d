package metrics

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Peer counts what passes between this member and another one of its cluster. Its methods may be called concurrently.
type Peer struct {
	sent, received           atomic.Uint64 // bytes
	sendFailed, receiveFails atomic.Uint64 // messages
	disconnected             atomic.Uint64
	trips                    *histogram
	out, in                  copies
}

// copies are those of the database that go one way: what etcd calls snapshots.
type copies struct {
	running      atomic.Int64
	done, failed atomic.Uint64
	took         *histogram
}

// Sent and Received are told of bytes.
func (p *Peer) Sent(bytes int)     { p.sent.Add(uint64(bytes)) }
func (p *Peer) Received(bytes int) { p.received.Add(uint64(bytes)) }

// SendFailed is told of messages that were dropped, and ReceiveFailed of one that has come and was not taken in.
func (p *Peer) SendFailed(messages int) { p.sendFailed.Add(uint64(messages)) }
func (p *Peer) ReceiveFailed()          { p.receiveFails.Add(1) }

// Disconnected is told that the connection to the member has broken.
func (p *Peer) Disconnected() { p.disconnected.Add(1) }

// RoundTrip is told how long a question to the member took.
func (p *Peer) RoundTrip(took time.Duration) { p.trips.observe(int64(took)) }

// Sending and Receiving are told that a copy of the database is begun, to the member or from it. What they give is called when it has ended.
func (p *Peer) Sending() (ended func(error))   { return p.out.begin() }
func (p *Peer) Receiving() (ended func(error)) { return p.in.begin() }

func (c *copies) begin() (ended func(error)) {
	start := time.Now()
	c.running.Add(1)
	return func(err error) {
		c.running.Add(-1)
		if err != nil {
			c.failed.Add(1)
			return
		}
		c.done.Add(1)
		c.took.observe(int64(time.Since(start)))
	}
}

// peers are the members that something was counted of.
type peers struct {
	mu    sync.Mutex
	known map[uint64]*Peer
}

// maxPeers bounds the members told apart. As in etcd, 0 stands for whom nobody knows: for all others.
const maxPeers = 64

// Peer gives what counts for another member, always the same.
func (m *Metrics) Peer(id uint64) *Peer {
	m.peers.mu.Lock()
	defer m.peers.mu.Unlock()
	if p := m.peers.known[id]; p != nil {
		return p
	}
	if len(m.peers.known) >= maxPeers {
		id = 0
	}
	p := m.peers.known[id]
	if p == nil {
		p = &Peer{trips: newSeconds(100*time.Microsecond, 16)}
		p.out.took, p.in.took = newSeconds(100*time.Millisecond, 10), newSeconds(100*time.Millisecond, 10)
		m.peers.known[id] = p
	}
	return p
}

// all gives the members by their ids in hex, as etcd's labels have them.
func (p *peers) all() map[string]*Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]*Peer, len(p.known))
	for id, of := range p.known {
		all[hex(id)] = of
	}
	return all
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }

// network shows what passes between the members. A member that was removed keeps its counters until the server is started again, as in etcd.
func (m *Metrics) network(f *set, s Sources) {
	local := []string{"Local", "Remote"}
	f.add("etcd_network_known_peers", "The current number of known peers: 1 for each member, this one included, and 0 for one that was removed.", local, func(e emitter) {
		members := s.Members()
		for _, id := range members {
			e.value(prometheus.GaugeValue, 1, hex(s.Member), hex(id))
		}
		for id := range m.peers.removed(members) {
			e.value(prometheus.GaugeValue, 0, hex(s.Member), hex(id))
		}
	})
	f.add("etcd_network_active_peers", "The current number of active peer connections: 1 for each other member that this one is connected to.", local, func(e emitter) {
		for _, id := range s.Members() {
			if id != s.Member && m.peers.has(id) {
				e.value(prometheus.GaugeValue, truth(func() bool { return s.Connected(id) })(), hex(s.Member), hex(id))
			}
		}
	})
	each := func(kind prometheus.ValueType, read func(*Peer) float64, labels ...string) func(emitter) {
		return func(e emitter) {
			for id, p := range m.peers.all() {
				e.value(kind, read(p), append(slices.Clone(labels), id)...)
			}
		}
	}
	counter := func(name, label, help string, n func(*Peer) *atomic.Uint64) {
		f.add(name, help, []string{label}, each(prometheus.CounterValue, func(p *Peer) float64 { return float64(n(p).Load()) }))
	}
	distribution := func(name, label, help string, h func(*Peer) *histogram) {
		f.add(name, help, []string{label}, func(e emitter) {
			for id, p := range m.peers.all() {
				e.histogram(h(p), id)
			}
		})
	}
	f.add("etcd_network_disconnected_peers_total", "The total number of disconnected peers: how often the connection to each broke.", local,
		each(prometheus.CounterValue, func(p *Peer) float64 { return float64(p.disconnected.Load()) }, hex(s.Member)))
	counter("etcd_network_peer_sent_bytes_total", "To", "The total number of bytes sent to peers.", func(p *Peer) *atomic.Uint64 { return &p.sent })
	counter("etcd_network_peer_received_bytes_total", "From", "The total number of bytes received from peers.", func(p *Peer) *atomic.Uint64 { return &p.received })
	counter("etcd_network_peer_sent_failures_total", "To", "The total number of send failures to peers: Raft messages that were dropped.", func(p *Peer) *atomic.Uint64 { return &p.sendFailed })
	counter("etcd_network_peer_received_failures_total", "From", "The total number of receive failures from peers: Raft messages that have come and were not taken in.", func(p *Peer) *atomic.Uint64 { return &p.receiveFails })
	distribution("etcd_network_peer_round_trip_time_seconds", "To", "Round-Trip-Time histogram between peers: of a call that costs nothing, every few seconds.", func(p *Peer) *histogram { return p.trips })
	for _, way := range []struct {
		name, label, noun string
		of                func(*Peer) *copies
	}{
		{"send", "To", "sends", func(p *Peer) *copies { return &p.out }},
		{"receive", "From", "receives", func(p *Peer) *copies { return &p.in }},
	} {
		name, help := "etcd_network_snapshot_"+way.name, " snapshot "+way.noun+": copies of the database for a member that is far behind."
		f.add(name+"_inflights_total", "Total number of inflight"+help, []string{way.label}, each(prometheus.GaugeValue, func(p *Peer) float64 { return float64(way.of(p).running.Load()) }))
		counter(name+"_success", way.label, "Total number of successful"+help, func(p *Peer) *atomic.Uint64 { return &way.of(p).done })
		counter(name+"_failures", way.label, "Total number of failed"+help, func(p *Peer) *atomic.Uint64 { return &way.of(p).failed })
		distribution(name+"_total_duration_seconds", way.label, "Total latency distributions of"+help, func(p *Peer) *histogram { return way.of(p).took })
	}
}

// removed gives those that are no members any more.
func (p *peers) removed(members []uint64) map[uint64]*Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := maps.Clone(p.known)
	delete(gone, 0)
	for _, id := range members {
		delete(gone, id)
	}
	return gone
}

func (p *peers) has(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id] != nil
}
