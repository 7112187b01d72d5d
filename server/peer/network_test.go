package peer

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// TestOrder: what is sent arrives, in order among the MsgApps and among the others, with what it carries.
func TestOrder(t *testing.T) {
	m := start(t, memberOptions{})
	n, r := network(t, nil, m.url)
	reach(t, n, m, 1)
	const rounds, each = 8, 1000
	apps, beats := uint64(0), uint64(1)
	for round := range rounds {
		for i := range each {
			size := 0
			if i%3 > 0 {
				size = i
			}
			n.Send([]*raftpb.Message{appendOf(uint64(round*each+i+1), size), heartbeat(uint64(round*each + i + 2))})
		}
		for seen := 0; seen < 2*each; {
			got := await(t, m.got, "a message")
			switch {
			case got.GetType() == raftpb.MsgApp && got.GetIndex() == apps+1:
				apps++
			case got.GetType() == raftpb.MsgHeartbeat && got.GetTerm() == beats+1:
				beats++
			case got.GetType() == raftpb.MsgHeartbeat && got.GetTerm() == 1:
				continue // from reach
			default:
				t.Fatalf("%v after index %d and term %d", got, apps, beats)
			}
			seen++
		}
	}
	if len(r.unreachable) > 0 {
		t.Error("reported unreachable")
	}
}

// TestBeforeConnected: what is sent while the first connection is being made is not lost.
func TestBeforeConnected(t *testing.T) {
	m := start(t, memberOptions{})
	n, _ := network(t, nil, m.url)
	n.Send([]*raftpb.Message{heartbeat(1)})
	await(t, m.got, "the message")
}

// TestAway sends to members that are not there, are not known, or say nothing.
func TestAway(t *testing.T) {
	for what, urls := range map[string][]string{
		"closed port": {closedPort(t)}, "silent": {silent(t)}, "no such socket": {"unix://" + filepath.Join(t.TempDir(), "none")},
		"not known": {}, "no URL": {"ftp://nowhere"},
	} {
		n, r := network(t, nil, urls...)
		for i := range 100 {
			n.Send([]*raftpb.Message{appendOf(uint64(i), 1<<20), heartbeat(1)})
		}
		if id := await(t, r.unreachable, what); id != other {
			t.Errorf("%s: %x", what, id)
		}
		n.Send([]*raftpb.Message{{Type: raftpb.MsgSnap.Enum(), From: new(uint64(self)), To: new(uint64(other))}})
		if id := await(t, r.snapshots, what); id != other {
			t.Errorf("%s: %x", what, id)
		}
		n.Close()
	}
}

// TestReportedOnce: a member that stays away is not reported for each message.
func TestReportedOnce(t *testing.T) {
	n, r := network(t, nil, closedPort(t))
	await(t, r.unreachable, "a report")
	for range 1000 {
		n.Send([]*raftpb.Message{appendOf(1, 1), heartbeat(1)})
	}
	n.Close()
	if got := len(r.unreachable); got > 1 { // the other stream's
		t.Errorf("%d reports", got)
	}
}

// TestHeartbeatsPass: heartbeats arrive while the member takes in no MsgApps and the queue of those overflows.
func TestHeartbeatsPass(t *testing.T) {
	release := make(chan struct{})
	m := start(t, memberOptions{hold: func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgApp {
			<-release
		}
	}})
	n, r := network(t, nil, m.url)
	reach(t, n, m, 1)
	for i := range 200 {
		n.Send([]*raftpb.Message{appendOf(uint64(i), 1<<20)})
	}
	await(t, r.unreachable, "the report that the queue is full")
	for term := range uint64(100) {
		n.Send([]*raftpb.Message{heartbeat(term + 2)})
		for await(t, m.got, "a heartbeat").GetTerm() != term+2 {
		}
	}
	close(release)
	for index := uint64(0); index < 63; { // what fits into the queue at least, since each takes a bit more than a MiB there: in order
		got := await(t, m.got, "a MsgApp")
		if got.GetType() != raftpb.MsgApp {
			continue
		}
		if got.GetIndex() != index {
			t.Fatalf("index %d, want %d", got.GetIndex(), index)
		}
		index++
	}
}

// TestReconnect restarts the member on its address several times.
func TestReconnect(t *testing.T) {
	m := start(t, memberOptions{})
	n, r := network(t, nil, m.url)
	reach(t, n, m, 1)
	for range 3 {
		m.stop()
		await(t, r.unreachable, "a report of the break")
		n.Send([]*raftpb.Message{heartbeat(2)})
		m = start(t, memberOptions{url: m.url})
		began := time.Now()
		reach(t, n, m, 3)
		t.Logf("reached after %v", time.Since(began))
		conn, err := n.Conn(other)
		if err != nil {
			t.Fatal(err)
		}
		n.Retry(other)
		awaitCall(t, peerpb.NewPeerClient(conn))
	}
}

// TestSnapshotOnBrokenStream: Raft is told of a snapshot that may not have arrived.
func TestSnapshotOnBrokenStream(t *testing.T) {
	m := start(t, memberOptions{})
	n, r := network(t, nil, m.url)
	n.Send([]*raftpb.Message{{Type: raftpb.MsgSnap.Enum(), From: new(uint64(self)), To: new(uint64(other)), Snapshot: &raftpb.Snapshot{Data: []byte("s")}}})
	if got := await(t, m.got, "the snapshot"); string(got.GetSnapshot().GetData()) != "s" {
		t.Errorf("got %v", got)
	}
	m.stop()
	await(t, r.snapshots, "a report")
}

// TestTwoURLs: one of a member's URLs is enough.
func TestTwoURLs(t *testing.T) {
	m := start(t, memberOptions{})
	for what, urls := range map[string][]string{
		"closed first": {closedPort(t), m.url}, "silent first": {silent(t), m.url}, "good first": {m.url, closedPort(t)},
	} {
		n, _ := network(t, nil, urls...)
		reach(t, n, m, 1)
		n.Close()
		t.Log(what)
	}
}

// TestRetryWhileConnecting: a member shows that it is there while the connections to it are being made.
func TestRetryWhileConnecting(t *testing.T) {
	m := start(t, memberOptions{})
	n, _ := network(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var showing sync.WaitGroup
	showing.Go(func() {
		for ctx.Err() == nil {
			n.Retry(other)
		}
	})
	for i := range 20 {
		n.SetPeers(map[uint64][]string{other: {m.url, closedPort(t)}})
		reach(t, n, m, uint64(i+1))
		n.SetPeers(map[uint64][]string{})
	}
	cancel()
	showing.Wait()
}

// TestMoveWhileReconnecting: a member is to move while one of the connections to it is being made anew, in vain at first. The others stay until the last of them is broken, too.
func TestMoveWhileReconnecting(t *testing.T) {
	a, b := start(t, memberOptions{}), start(t, memberOptions{})
	n, _ := network(t, nil, a.url)
	reach(t, n, a, 1)
	p := n.peer(other)
	for slices.ContainsFunc(p.links(), func(l *link) bool { return l.active.Load() == 0 }) {
		time.Sleep(time.Millisecond)
	}
	p.control.active.Store(0)
	n.SetPeers(map[uint64][]string{other: {b.url}})
	p.control.broke()
	if n.peer(other) != p {
		t.Error("all connections were given up for one")
	}
	reach(t, n, a, 2)
	a.stop()
	reach(t, n, b, 3)
}

// TestSetPeers: a member moves, and is reached where it was until it is not there any more; it goes; others keep their connections.
func TestSetPeers(t *testing.T) {
	a, b := start(t, memberOptions{}), start(t, memberOptions{})
	third := start(t, memberOptions{GuardOptions: GuardOptions{Self: 0xd}})
	n, r := network(t, nil)
	n.SetPeers(map[uint64][]string{other: {a.url}, 0xd: {third.url}, self: {"http://127.0.0.1:1"}})
	kept, err := n.Conn(0xd)
	if err != nil {
		t.Fatal(err)
	}
	reach(t, n, a, 1)
	for !n.peer(other).connected() {
		time.Sleep(time.Millisecond)
	}
	n.SetPeers(map[uint64][]string{other: {b.url}, 0xd: {third.url}})
	reach(t, n, a, 2)
	a.stop()
	reach(t, n, b, 3)
	if same, err := n.Conn(0xd); same != kept || err != nil {
		t.Errorf("another connection to a member that has not moved: %v", err)
	}
	n.SetPeers(map[uint64][]string{})
	for len(r.unreachable) > 0 {
		<-r.unreachable
	}
	n.Send([]*raftpb.Message{heartbeat(9)})
	await(t, r.unreachable, "a report of a member that is gone")
	if _, err := n.Conn(other); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("Conn: %v", err)
	}
}

// TestLocated: a member says where it is reached when a stream begins, and when that changes. URLs that nobody can connect to are not passed on.
func TestLocated(t *testing.T) {
	m := start(t, memberOptions{})
	n, _ := network(t, nil, m.url)
	reach(t, n, m, 1)
	n.Located([]string{"nowhere"}, 3)
	n.Located([]string{"http://a:1", "http://b:1"}, 5)
	await := func(m *member) {
		t.Helper()
		if got, want := await(t, m.located, "where it is"), (place{self, "http://a:1 http://b:1", 5}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	await(m)
	n.Located([]string{"http://c:1"}, 4)
	m.stop()
	m = start(t, memberOptions{url: m.url})
	await(m)
	third := start(t, memberOptions{GuardOptions: GuardOptions{Self: 0xd}})
	n.SetPeers(map[uint64][]string{other: {m.url}, 0xd: {third.url}})
	await(third)
}

// TestClose leaves no goroutine, whatever is going on.
func TestClose(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	m := start(t, memberOptions{hold: func(*raftpb.Message) { <-release }})
	n, r := network(t, nil)
	n.SetPeers(map[uint64][]string{other: {m.url}, 0xc: {closedPort(t)}, 0xd: {silent(t)}, 0xe: {closedPort(t), silent(t)}})
	for range 200 {
		n.Send([]*raftpb.Message{appendOf(1, 1<<20), heartbeat(1)})
	}
	await(t, r.unreachable, "a loss")
	n.Close()
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"peer.(*link)", "peer.(*reports)", "peer.(*Network)"} {
		if strings.Contains(stacks.String(), name) {
			t.Errorf("%s goes on:\n%s", name, stacks.String())
		}
	}
	n.Close()
	n.SetPeers(map[uint64][]string{other: {m.url}})
	n.Send([]*raftpb.Message{heartbeat(1)})
	n.Retry(other)
	if _, err := n.Conn(other); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("Conn: %v", err)
	}
}
