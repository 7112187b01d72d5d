package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/test/bench/server"
)

// says is a member's status: who it is, who leads and in which term.
func says(member, leader, term uint64) *pb.StatusResponse {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{ClusterId: 7, MemberId: member}, Leader: leader, RaftTerm: term}
}

func TestMembersAgreeOnALeader(t *testing.T) {
	elsewhere := says(3, 2, 5)
	elsewhere.Header.ClusterId = 8
	for _, c := range []struct {
		name     string
		statuses []*pb.StatusResponse
		want     int
	}{
		{"all name one of them", []*pb.StatusResponse{says(1, 2, 5), says(2, 2, 5), says(3, 2, 5)}, 1},
		{"one knows of none", []*pb.StatusResponse{says(1, 2, 5), says(2, 2, 5), says(3, 0, 5)}, -1},
		{"none knows of any", []*pb.StatusResponse{says(1, 0, 5), says(2, 0, 5)}, -1},
		{"one names another", []*pb.StatusResponse{says(1, 2, 5), says(2, 2, 5), says(3, 1, 5)}, -1},
		{"one is in an older term", []*pb.StatusResponse{says(1, 2, 5), says(2, 2, 5), says(3, 2, 4)}, -1},
		{"they name one that is dead", []*pb.StatusResponse{says(1, 2, 5), says(3, 2, 5)}, -1},
		{"one belongs to another cluster", []*pb.StatusResponse{says(1, 2, 5), says(2, 2, 5), elsewhere}, -1},
		{"each leads itself", []*pb.StatusResponse{says(1, 1, 5), says(2, 2, 5), says(3, 3, 5)}, -1},
		{"one is there twice", []*pb.StatusResponse{says(1, 1, 5), says(1, 1, 5)}, -1},
	} {
		if got := agreed(c.statuses); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestGapIsTheLongestSinceItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gap
		succeed := func(after time.Duration) {
			time.Sleep(after)
			g.success()
		}
		succeed(time.Minute)
		succeed(time.Hour)
		time.Sleep(30 * time.Millisecond)
		g.begin()
		if got := g.end(); got != 0 {
			t.Errorf("a gap of %v with no success since it began", got)
		}
		next := g.next()
		succeed(20 * time.Millisecond) // it has begun before
		select {
		case <-next:
		default:
			t.Error("the next success is not told of")
		}
		if got := g.end(); got != 50*time.Millisecond {
			t.Errorf("a gap of %v, want 50ms", got)
		}
		succeed(2 * time.Second)
		succeed(time.Millisecond)
		if got := g.end(); got != 2*time.Second {
			t.Errorf("a gap of %v, want 2s", got)
		}
	})
}

func TestALoadIsRunAgainUntilTheLeaderStays(t *testing.T) {
	for _, c := range []struct{ moves, runs int }{{0, 1}, {1, 2}, {reignTries - 1, reignTries}, {reignTries, reignTries}} {
		runs, dirs := 0, map[string]bool{}
		l := Load{Timeout: time.Minute, run: func(_ context.Context, r *Run) (Figures, error) {
			runs++
			dirs[r.Dir] = true
			if runs <= c.moves {
				return nil, fmt.Errorf("create: %w", errMoved)
			}
			return Figures{}, nil
		}}
		_, err := l.Do(t.Context(), &Run{Dir: filepath.Join(t.TempDir(), "run"), Log: slog.New(slog.DiscardHandler)})
		if runs != c.runs || len(dirs) != runs || errors.Is(err, errMoved) != (c.moves == reignTries) {
			t.Errorf("a leader that moves %d times: %d runs in %v, %v, want %d", c.moves, runs, dirs, err, c.runs)
		}
	}
}

// etcdCluster is a run on a real cluster, for a moment.
func etcdCluster(t *testing.T) *Run {
	bin, err := filepath.Abs("../../../.build/bin")
	if err != nil {
		t.Fatal(err)
	}
	spec := server.RaftSpecs(bin)[0]
	if _, err := os.Stat(spec.Binary); err != nil {
		t.Fatalf("make peers: %v", err)
	}
	dir := t.TempDir()
	return &Run{
		Spec: spec, Scale: 0.002, Ops: 3, Connections: 2, Dir: dir,
		LogFile: filepath.Join(dir, "log"), Values: NewValues(), Log: slog.New(slog.DiscardHandler),
	}
}

// What a client finds after an attempt of which it heard nothing is its own write, or wrong.
func TestARefusedCreate(t *testing.T) {
	r := etcdCluster(t)
	n, err := r.fresh(t.Context(), atLeader)
	if err != nil {
		t.Fatal(err)
	}
	defer n.stop(t.Context())
	c := n.conn(0).Client
	if _, err := createKey(t.Context(), c, "key", "mine"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, value string
		again       bool
		want        error
	}{
		{"an earlier attempt has written it", "mine", true, nil},
		{"there was no earlier attempt", "mine", false, ErrWrong},
		{"somebody else has written it", "other", true, ErrWrong},
	} {
		if err := try(t.Context(), c, known{"key", tc.value}, tc.again); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestLoadsOnACluster(t *testing.T) {
	for _, l := range Raft() {
		if !slices.Contains([]string{"create-100-all", "watch-10", "failover", "memory", "disk-100"}, l.Name) {
			continue
		}
		t.Run(l.Name, func(t *testing.T) {
			r := etcdCluster(t)
			if l.Name == "disk-100" {
				r.Scale = 0.05 // enough time for some writes
			}
			figures, err := l.Do(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range l.Measures {
				if figures[m.ID] <= 0 {
					t.Errorf("%s = %v, want more than nothing", m.ID, figures[m.ID])
				}
			}
		})
	}
}

func TestALeaderThatHasMovedIsFoundOut(t *testing.T) {
	r := etcdCluster(t)
	n, err := r.fresh(t.Context(), atLeader)
	if err != nil {
		t.Fatal(err)
	}
	defer n.stop(t.Context())
	if _, err := r.fill(t.Context(), n, 100); err != nil {
		t.Fatal(err)
	}
	old := n.reign.leader
	if err := n.procs[old].Kill(); err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(n.all(), func(at int) bool { return at == old })
	if _, err := n.agreement(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	if err := n.restart(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	_, err = r.drive(t.Context(), n, plan{clients: 1, ops: 1}, func(context.Context, *worker) error { return nil })
	if !errors.Is(err, errMoved) {
		t.Errorf("after the leader was killed: %v, want errMoved", err)
	}
}
