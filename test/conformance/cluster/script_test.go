package cluster

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// nobody is no member's id.
const nobody = 12345

// play is the whole script. Each part leaves three members that vote, or says so.
func (c *cluster) play() {
	c.until("all to be listed as started", func(ctx context.Context) bool {
		started := 0
		for _, n := range c.nodes {
			r, err := n.MemberList(ctx, &pb.MemberListRequest{})
			for _, m := range r.GetMembers() {
				if err == nil && m.Name != "" {
					started++
				}
			}
		}
		return started == 9
	})
	c.steady()
	c.refusals()
	c.moveLeader()
	learner := c.addLearner()
	c.addVoters()
	c.learner(learner)
	c.removeLeader()
	c.withoutQuorum()
}

// refusals changes nothing.
func (c *cluster) refusals() {
	leader, follower := c.led()
	c.record(list("list", leader, false))
	c.record(list("list, linearizable, by a follower", follower, true))
	c.record(stat("status", leader))
	c.record(stat("status of a follower", follower))
	c.record(add("add no URLs", leader))
	c.record(add("add a URL without a port", leader, "http://127.0.0.1"))
	c.record(add("add a URL with a path", leader, "http://127.0.0.1:1/p"))
	c.record(add("add a URL and one of no scheme", leader, "http://127.0.0.1:1", "127.0.0.1:2"))
	c.record(add("add a member's URL", leader, follower.peerURL))
	c.record(add("add a member's URL, by a follower", follower, leader.peerURL))
	c.record(addLearner("add a member's URL as a learner", leader, follower.peerURL))
	c.record(promote("promote nobody", leader, nobody))
	c.record(promote("promote nobody, by a follower", follower, nobody))
	c.record(promote("promote one that votes", leader, follower.id))
	c.record(promote("promote one that votes, by a follower", follower, follower.id))
	c.record(remove("remove nobody", leader, nobody))
	c.record(remove("remove nobody, by a follower", follower, nobody))
	c.record(update("update nobody", leader, nobody, "http://127.0.0.1:1"))
	c.record(update("update nobody to what are no URLs", leader, nobody, "bad"))
	c.record(update("update to another's URL", leader, follower.id, leader.peerURL))
	c.record(update("update to its own URL, by a follower", follower, follower.id, follower.peerURL))
	c.record(list("list after that", follower, true))
}

func (c *cluster) moveLeader() {
	leader, follower := c.led()
	c.record(move("move the leader, by a follower", follower, follower.id))
	c.record(move("move the leader to nobody", leader, nobody))
	c.record(move("move the leader to itself", leader, leader.id))
	c.record(move("move the leader to a follower", leader, follower.id))
	if now, _ := c.led(); now != follower {
		c.t.Errorf("%s leads, and not %s", now.name, follower.name)
	}
	c.record(put("put after that", leader))
}

// addLearner adds a learner, which has not started, and gives its URL and id.
func (c *cluster) addLearner() *pb.Member {
	leader, follower := c.led()
	url := c.freeURL()
	c.connected(follower)
	added, ok := c.record(addLearner("add a learner, by a follower", follower, url)).(*pb.MemberAddResponse)
	if !ok {
		c.t.Fatal(c.lines[len(c.lines)-1])
	}
	learner := added.Member
	c.record(list("list with it", leader, true))
	c.record(addLearner("add a second learner", leader, c.freeURL()))
	// With another URL beside it: in the same second the same URLs make the same id, and another refusal.
	c.record(addLearner("add a second learner of its URL", leader, url, c.freeURL()))
	c.record(add("add a voter of its URL", follower, url, c.freeURL()))
	c.record(promote("promote what has not started", leader, learner.ID))
	c.record(promote("promote what has not started, by a follower", follower, learner.ID))
	c.record(move("move the leader to a learner", leader, learner.ID))
	c.record(update("update a learner to another's URL", leader, learner.ID, leader.peerURL))
	return learner
}

// connected waits until the members have been connected for as long as a change of them takes. A member whose URL is taken is not added, but
// that is looked at last.
func (c *cluster) connected(n *node) {
	c.until("the members to be connected for long enough", func(ctx context.Context) bool {
		_, err := n.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{n.peerURL}})
		return !errors.Is(rpctypes.Error(err), rpctypes.ErrUnhealthy)
	})
}

// addVoters adds two that do not start, and takes them away again.
func (c *cluster) addVoters() {
	leader, follower := c.led()
	var added []*pb.Member
	for _, name := range []string{"add a voter", "add a second voter"} {
		resp, ok := c.record(add(name, leader, c.freeURL())).(*pb.MemberAddResponse)
		if !ok {
			c.t.Fatal(c.lines[len(c.lines)-1])
		}
		added = append(added, resp.Member)
	}
	c.record(add("add a third voter, when two have not started", leader, c.freeURL()))
	c.record(add("add a third voter, of the first's URL", leader, added[0].PeerURLs[0], c.freeURL()))
	c.record(remove("remove one that has started, when two have not", leader, follower.id))
	c.record(remove("remove nobody, when two have not started", leader, nobody))
	c.record(remove("remove one that has not started", leader, added[0].ID))
	c.record(remove("remove the other, by a follower", follower, added[1].ID))
	c.record(remove("remove one twice", leader, added[0].ID))
	c.record(update("update one removed", leader, added[0].ID, "http://127.0.0.1:1"))
	c.record(promote("promote one removed", leader, added[0].ID))
	c.record(list("list without them", follower, true))
}

// learner starts the learner, asks it, and promotes it: four members vote afterwards.
func (c *cluster) learner(m *pb.Member) {
	n := c.join("m3", m.PeerURLs[0])
	c.until("the learner to follow", func(ctx context.Context) bool {
		r, err := n.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		return err == nil && r.Count == 1 && c.status(n).Leader != 0
	})
	leader, follower := c.led()
	c.record(list("list with the learner started", follower, true))
	c.record(stat("learner: status", n))
	c.record(get("learner: get, serializable", n, true))
	c.record(get("learner: get", n, false))
	c.record(put("learner: put", n))
	c.record(list("learner: list", n, false))
	c.record(add("learner: add", n, "bad"))
	c.record(promote("learner: promote", n, n.id))
	c.record(move("learner: move the leader", n, n.id))
	c.record(grant("learner: grant a lease", n))
	c.record(watch("learner: watch", n))
	c.record(led(get("learner: get, serializable, with a leader", n, true)))
	c.record(keepAlive("learner: keep a lease alive", n))
	c.record(call{name: "learner: hash", node: n, do: func(ctx context.Context) (proto.Message, error) { return n.HashKV(ctx, &pb.HashKVRequest{}) }})
	c.record(call{name: "learner: alarms", node: n, do: func(ctx context.Context) (proto.Message, error) { return n.Alarm(ctx, &pb.AlarmRequest{}) }})
	c.record(call{name: "learner: defragment", node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.Defragment(ctx, &pb.DefragmentRequest{})
	}})
	c.record(promote("promote the learner, by a follower", follower, n.id))
	c.until("the promotion to be known", func(context.Context) bool { return !c.status(n).IsLearner })
	c.record(stat("status of whom was promoted", n))
	c.record(put("put by whom was promoted", n))
	c.record(promote("promote it again", leader, n.id))
}

// removeLeader has a follower remove the leader. An etcd that is to remove itself says that it did, or that it has stopped.
func (c *cluster) removeLeader() {
	c.steady()
	leader, follower := c.led()
	c.record(remove("remove the leader", follower, leader.id))
	c.forget(leader)
	now, follower := c.led()
	c.record(list("list without it", now, true))
	c.record(put("put without it", follower))
	c.record(remove("remove it again", now, leader.id))
	select {
	case <-leader.Exited():
		c.lines = append(c.lines, "whom was removed ends by itself")
	case <-time.After(soon):
		c.lines = append(c.lines, "whom was removed goes on")
	}
}

// withoutQuorum leaves one of three, asks it, and starts the others again.
func (c *cluster) withoutQuorum() {
	leader, last := c.led()
	open := make(chan string, 1)
	ready := make(chan struct{})
	go func() {
		_, line := c.answer(led(call{name: "a watch that was open, with a leader", node: last, deadline: soon, do: func(ctx context.Context) (proto.Message, error) {
			s, err := pb.NewWatchClient(last.conn).Watch(ctx)
			if err != nil {
				return nil, err
			}
			err = s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}})
			if err != nil {
				return nil, err
			}
			if _, err := s.Recv(); err != nil {
				return nil, err
			}
			close(ready)
			return s.Recv()
		}}))
		open <- line
	}()
	select {
	case <-ready:
	case line := <-open:
		c.t.Fatal(line)
	}
	for _, n := range c.nodes {
		if n != last {
			if err := n.Kill(); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.until("no leader", func(context.Context) bool { return c.status(last).Leader == 0 })
	slow := remove("no quorum: remove one that is down", last, leader.id)
	slow.deadline = time.Second
	c.together(
		stat("no quorum: status", last), list("no quorum: list", last, false), list("no quorum: list, linearizable", last, true),
		put("no quorum: put", last), get("no quorum: get", last, false), get("no quorum: get, serializable", last, true), grant("no quorum: grant a lease", last),
		led(put("no quorum: put, with a leader", last)), led(get("no quorum: get, serializable, with a leader", last, true)), led(list("no quorum: list, with a leader", last, false)),
		led(watch("no quorum: watch, with a leader", last)), watch("no quorum: watch", last),
		add("no quorum: add", last, "http://127.0.0.1:1"), addLearner("no quorum: add a learner", last, "http://127.0.0.1:1"),
		remove("no quorum: remove itself", last, last.id), slow,
		promote("no quorum: promote", last, nobody), move("no quorum: move the leader", last, leader.id),
	)
	c.lines = append(c.lines, <-open)
	for _, n := range c.nodes {
		if n != last {
			if err := n.Restart(c.t.Context()); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.led()
	c.record(put("put with the quorum back", last))
	c.record(list("list with the quorum back", last, true))
}
