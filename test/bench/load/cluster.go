package load

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// errMoved says that the cluster had another leader after the load than before.
var errMoved = errors.New("load: the leader did not stay the same")

// where says to which servers clients connect.
type where int

const (
	everywhere where = iota
	atLeader         // or at the first server where they are no cluster
	atFollower       // or at the last server
)

// at gives the servers' indexes.
func (n *node) at(w where) []int {
	switch w {
	case atLeader:
		return []int{n.reign.leader}
	case atFollower:
		return []int{n.follower()}
	default:
		return n.all()
	}
}

func (n *node) all() []int {
	all := make([]int, len(n.procs))
	for i := range all {
		all[i] = i
	}
	return all
}

// follower is a server beside the leader, if there is one.
func (n *node) follower() int { return (n.reign.leader + len(n.procs) - 1) % len(n.procs) }

// first is the first connection to a server.
func (n *node) first(at int) conn {
	return n.conns[slices.IndexFunc(n.conns, func(c conn) bool { return c.at == at })]
}

// reign is a time with one leader, which a term of Raft is: the server's index and the term; 0, 0 where there is no cluster.
type reign struct {
	leader int
	term   uint64
}

// statusTimeout bounds one question for a member's status, which it answers from what it knows.
const statusTimeout = time.Second

func (n *node) status(ctx context.Context, at int) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	resp, err := pb.NewMaintenanceClient(n.first(at).ActiveConnection()).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask for the status of server %d: %w", at+1, err)
	}
	return resp, nil
}

// agreement asks these servers until they name one leader, which is one of them. They have no signal to give.
func (n *node) agreement(ctx context.Context, among []int) (reign, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var lastErr error
	for {
		statuses := make([]*pb.StatusResponse, len(among))
		lastErr = nil
		for i, at := range among {
			var err error
			if statuses[i], err = n.status(ctx, at); err != nil {
				lastErr = err
			}
		}
		if lastErr == nil {
			if i := agreed(statuses); i >= 0 {
				return reign{leader: among[i], term: statuses[i].RaftTerm}, nil
			}
		}
		select {
		case <-ctx.Done():
			return reign{}, fmt.Errorf("wait until the members agree on a leader: %w, at last %v", ctx.Err(), lastErr)
		case <-tick.C:
		}
	}
}

// agreed gives the index of the one member that all of them say leads in the same term, and -1 if there is none.
func agreed(statuses []*pb.StatusResponse) int {
	leader := -1
	for i, s := range statuses {
		first := statuses[0]
		if s.Leader == 0 || s.Leader != first.Leader || s.RaftTerm != first.RaftTerm || s.Header.GetClusterId() != first.Header.GetClusterId() {
			return -1
		}
		if s.Header.GetMemberId() != s.Leader {
			continue
		}
		if leader >= 0 {
			return -1 // one member cannot be there twice
		}
		leader = i
	}
	return leader
}

// stayed gives err, which a load has ended with, and errMoved when the cluster's leader is not, or not without a break, the
// one that it was when the clients were connected.
func (n *node) stayed(ctx context.Context, err error) error {
	if n.reign.term == 0 || ctx.Err() != nil {
		return err
	}
	s, statusErr := n.status(ctx, n.reign.leader)
	switch {
	case statusErr != nil:
		return firstError(err, statusErr)
	case s.Leader != s.Header.GetMemberId() || s.RaftTerm != n.reign.term:
		return fmt.Errorf("%w (%v)", errMoved, err)
	}
	return err
}

// reignTries is how often a load is run until the leader stays the same.
const reignTries = 3

// untilOneLeads runs the load, each time on data of its own, until the leader has stayed the same.
func (l Load) untilOneLeads(ctx context.Context, r *Run) (Figures, error) {
	for try := 1; ; try++ {
		again := *r
		if try > 1 {
			again.Dir = filepath.Join(r.Dir, "try-"+strconv.Itoa(try))
		}
		figures, err := l.once(ctx, &again)
		if !errors.Is(err, errMoved) || try == reignTries {
			return figures, err
		}
		r.Log.Warn("the leader did not stay the same: once more", "load", l.Name, "server", r.Spec.Name, "error", err)
		if err := os.RemoveAll(r.Dir); err != nil {
			return nil, fmt.Errorf("drop the data of a try: %w", err)
		}
	}
}

func (l Load) once(ctx context.Context, r *Run) (Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	return l.run(ctx, r)
}
