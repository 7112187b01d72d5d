package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestMembership lets a cluster of three grow to five, lose all data of one, and shrink to three, under load.
func TestMembership(t *testing.T) {
	d := newDrill(t, 5)
	d.form(3)
	d.step("a member that begins as a learner is added", func() error { return d.join(3, 0, true) })
	d.step("a member that votes at once is added", func() error { return d.join(4, 0, false) })
	d.step("a member has lost its data, and is added anew", func() error {
		n := d.pick([]int{1, 2, 3, 4})
		id, err := d.id(n)
		if err != nil {
			return err
		}
		d.admit(false, n)
		err = errors.Join(d.members[n].kill(), d.withoutMe(n), d.remove(id, 0), d.members[n].forget())
		if err != nil {
			return err
		}
		return d.join(n, 0, n%2 == 0)
	})
	d.step("a follower is removed", func() error {
		n, err := d.follower()
		return errors.Join(err, d.leave(n))
	})
	d.step("the leader is removed", func() error {
		n, err := d.anyLeader()
		return errors.Join(err, d.leave(n))
	})
	d.finish()
}

// TestLeaderLeaves removes the leader of four while another member is down. The two that are left are enough of three.
func TestLeaderLeaves(t *testing.T) {
	d := newDrill(t, 4)
	d.form(4)
	d.quiet()
	leader, err := d.anyLeader()
	if err != nil {
		t.Fatal(err)
	}
	down := d.pick(d.others(leader))
	d.admit(false, down)
	if err := d.members[down].kill(); err != nil {
		t.Fatal(err)
	}
	d.step("the leader is removed while another one is down", func() error { return d.leave(leader) })
	if err := errors.Join(d.begin(down), d.serve(down)); err != nil {
		t.Fatal(err)
	}
	d.admit(true, down)
	d.quiet()
	d.finish()
}

// step is a part of a drill, under load.
func (d *drill) step(name string, happens func() error) {
	d.t.Helper()
	if err := d.during(happens); err != nil {
		d.t.Fatalf("-seed=%d: %s: %v", d.seed, name, err)
	}
	d.t.Log(name)
}

// id is a running member's.
func (d *drill) id(n int) (id uint64, err error) {
	return id, d.until(fmt.Sprintf("the id of member %d", n), func(ctx context.Context) error {
		s, err := d.status(ctx, n)
		id = s.GetHeader().GetMemberId()
		return err
	})
}

// join adds a member by another, as a learner first or not, starts it, and opens it to the load when it votes.
func (d *drill) join(n, by int, learner bool) error {
	m := d.members[n]
	cluster := append(d.running(), m)
	var id uint64
	err := d.until("a member added", func(ctx context.Context) error {
		r, err := pb.NewClusterClient(d.conn(by)).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{m.peerURL()}, IsLearner: learner})
		if err == nil {
			id = r.Member.ID
			return nil
		}
		// It may have been done without an answer.
		l, listErr := pb.NewClusterClient(d.conn(by)).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
		for _, one := range l.GetMembers() {
			if first(one.PeerURLs) == m.peerURL() {
				id = one.ID
				return nil
			}
		}
		return errors.Join(err, listErr)
	})
	if err != nil {
		return err
	}
	m.configure("existing", cluster, m.extra...)
	if err := d.begin(n); err != nil {
		return err
	}
	if learner {
		err = d.until("a learner promoted", func(ctx context.Context) error {
			if _, err := pb.NewClusterClient(d.conn(by)).MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id}); err != nil {
				return errors.Join(err, m.lives())
			}
			return nil
		})
		// It refuses clients until it has heard of that itself.
		err = errors.Join(err, d.until("a member that knows that it votes", func(ctx context.Context) error {
			s, err := d.status(ctx, n)
			if err == nil && s.IsLearner {
				err = errors.New("it says that it is a learner")
			}
			return err
		}))
	}
	if err := errors.Join(err, d.serve(n)); err != nil {
		return err
	}
	d.admit(true, n)
	return nil
}

func (d *drill) running() []*member {
	var all []*member
	for _, n := range d.up() {
		all = append(all, d.members[n])
	}
	return all
}

// leave removes a member, which runs, by another, and sees that the others go on before its process ends.
func (d *drill) leave(n int) error {
	id, err := d.id(n)
	if err != nil {
		return err
	}
	d.admit(false, n)
	err = errors.Join(d.remove(id, d.pick(d.others(n))), d.withoutMe(n), d.members[n].kill())
	return err
}

// remove removes a member by another.
func (d *drill) remove(id uint64, by int) error {
	return d.until("a member removed", func(ctx context.Context) error {
		l, err := pb.NewClusterClient(d.conn(by)).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
		if err != nil {
			return err
		}
		for _, m := range l.Members {
			if m.ID == id {
				_, err := pb.NewClusterClient(d.conn(by)).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
				return errors.Join(err, errors.New("asked for it"))
			}
		}
		return nil
	})
}
