package corrupt

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/test/conformance/launch"
)

// TestInitialCheck: a member whose database was altered does not start, and one whose database is as it was does.
func TestInitialCheck(t *testing.T) {
	c := newCluster(t, "--feature-gates=InitialCorruptCheck=true")
	m := c.members[0]
	c.put(m, "k", "before", c.members...)
	c.alter(m, value("before", "BEFORE"))
	const message = "found data inconsistency with peers"
	if err := m.Restart(t.Context()); !errors.Is(err, launch.ErrExited) || !strings.Contains(err.Error(), message) {
		t.Errorf("the start of a member with another value: %v", err)
	}
	c.put(c.members[1], "k2", "after", c.members[1:]...)
	c.alter(m, value("BEFORE", "before"))
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.put(m, "k3", "at last", c.members...)
	log, err := os.ReadFile(m.LogPath())
	if err != nil || !strings.Contains(string(log), "initial corruption checking passed") {
		t.Errorf("the log says nothing of the check: %v", err)
	}
}

// TestPeriodicCheck: a member whose database was altered is found and stops serving; the others go on.
func TestPeriodicCheck(t *testing.T) {
	c := newCluster(t, "--corrupt-check-time=1s")
	c.put(c.members[0], "k", "before", c.members...)
	leader, _ := c.leader(c.members...)
	for name, m := range map[string]*member{"leader": leader, "follower": c.but(leader)[0]} {
		c.alter(m, value("before", "BEFORE"))
		if err := m.Restart(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		others := c.but(m)
		c.alarmed(others[0], m.id)
		c.leader(others...)
		c.refuses(m)
		c.put(others[1], "k2", name, others...)
		for _, o := range others {
			c.serves(o)
		}
		// It is raised again as long as the databases differ, by whichever member the alarm is disarmed.
		c.alarm(m, pb.AlarmRequest_DEACTIVATE, m.id)
		c.alarmed(m, m.id)
		c.alter(m, value("BEFORE", "before"))
		if err := m.Restart(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.alarm(m, pb.AlarmRequest_DEACTIVATE, m.id)
		c.until("the member to serve", func(ctx context.Context) bool {
			_, err := m.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			return err == nil
		})
		c.serves(m)
	}
}

// TestNoMajority: three databases that all differ stop all members.
func TestNoMajority(t *testing.T) {
	c := newCluster(t, "--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s")
	c.put(c.members[0], "k", "before", c.members...)
	for i, m := range c.members[1:] {
		c.alter(m, value("before", []string{"BEFORE", "Before"}[i]))
		if err := m.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	put, err := c.members[0].Put(ctx, &pb.PutRequest{Key: []byte("k2")})
	if err == nil {
		_, err = c.members[0].Compact(ctx, &pb.CompactionRequest{Revision: put.Header.Revision})
	}
	if err != nil {
		t.Fatal(err)
	}
	c.alarmed(c.members[0], 0)
	for _, m := range c.members {
		c.refuses(m)
	}
}

// TestLog: a member that has applied another command than the others is found though its data are the same, and though it leads.
func TestLog(t *testing.T) {
	c := newCluster(t)
	c.put(c.members[0], "k", "v", c.members...)
	m := c.members[2]
	c.alter(m, chain)
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	leader, _ := c.leader(c.members...)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := leader.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: m.id}); err != nil {
		t.Logf("move the lead: %v", err)
	}
	c.alarmed(c.members[0], m.id)
	c.leader(c.members[:2]...)
	c.refuses(m)
	if log, err := os.ReadFile(m.LogPath()); err == nil {
		t.Logf("as the leader it has found itself: %v", strings.Contains(string(log), "raising the CORRUPT alarm"))
	}
	c.put(c.members[0], "k", "w", c.members[:2]...)
}

// TestAlarm: an alarm that a client raises for the leader ends its watches and its lead, for good until it is disarmed; one for member 0 stops all.
func TestAlarm(t *testing.T) {
	c := newCluster(t)
	c.put(c.members[0], "k", "v", c.members...)
	leader, others := c.leader(c.members...)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	watching, err := leader.Watch(ctx)
	if err == nil {
		err = watching.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}})
	}
	if err == nil {
		_, err = watching.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.alarm(others[0], pb.AlarmRequest_ACTIVATE, leader.id)
	c.put(others[0], "k", "w") // also by one that still takes it for the leader
	if r, err := watching.Recv(); !errors.Is(err, rpctypes.ErrGRPCCorrupt) {
		t.Errorf("the leader's watch: %v, %v", r, err)
	}
	next, _ := c.leader(others...)
	c.refuses(leader)
	// It may be elected, and hands over again.
	if _, err := next.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: leader.id}); err != nil {
		t.Logf("move the lead: %v", err)
	}
	c.leader(others...)
	c.put(others[1], "k", "x", others...)
	c.alarm(leader, pb.AlarmRequest_DEACTIVATE, leader.id)
	c.until("the member to serve", func(ctx context.Context) bool {
		_, err := leader.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		return err == nil
	})
	c.serves(leader)

	c.alarm(leader, pb.AlarmRequest_ACTIVATE, 0)
	for _, m := range c.members {
		c.alarmed(m, 0)
		c.refuses(m)
	}
	c.alarm(leader, pb.AlarmRequest_DEACTIVATE, 0)
	c.leader(c.members...)
	c.put(leader, "k", "y")
}

// refuses waits until a member answers nothing about keys, and holds what it still answers against what it should.
func (c *cluster) refuses(m *member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	key := []byte("k")
	c.until("a refusal", func(ctx context.Context) bool {
		_, err := m.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true})
		return errors.Is(err, rpctypes.ErrGRPCCorrupt)
	})
	for what, ask := range map[string]func() error{
		"range":   func() error { _, err := m.Range(ctx, &pb.RangeRequest{Key: key}); return err },
		"put":     func() error { _, err := m.Put(ctx, &pb.PutRequest{Key: key}); return err },
		"delete":  func() error { _, err := m.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}); return err },
		"txn":     func() error { _, err := m.Txn(ctx, &pb.TxnRequest{}); return err },
		"compact": func() error { _, err := m.Compact(ctx, &pb.CompactionRequest{Revision: 1}); return err },
		"watch": func() error {
			w, err := m.Watch(ctx)
			if err == nil {
				_, err = w.Recv()
			}
			return err
		},
	} {
		if err := ask(); !errors.Is(err, rpctypes.ErrGRPCCorrupt) {
			c.t.Errorf("%s at member %x: %v", what, m.id, err)
		}
	}
	if code, body := c.health(m); code != 503 || !strings.Contains(body, "ALARM CORRUPT") {
		c.t.Errorf("/health of member %x: %d %s", m.id, code, body)
	}
	if s := c.status(m); !strings.Contains(strings.Join(s.Errors, " "), "CORRUPT") {
		c.t.Errorf("the status of member %x says %q", m.id, s.Errors)
	}
	if _, err := m.HashKV(ctx, &pb.HashKVRequest{}); err != nil {
		c.t.Errorf("the hash of member %x: %v", m.id, err)
	}
}

// serves: a member answers, and says that it is well.
func (c *cluster) serves(m *member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	if _, err := m.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil {
		c.t.Errorf("a range at member %x: %v", m.id, err)
	}
	if code, body := c.health(m); code != 200 {
		c.t.Errorf("/health of member %x: %d %s", m.id, code, body)
	}
}
