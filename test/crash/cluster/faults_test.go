package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fault is something that happens to a cluster. The network is healed when it returns; the processes must run.
type fault struct {
	name   string
	strike func(d *drill) error
}

// TestFaults breaks three members, one fault after the other.
func TestFaults(t *testing.T) {
	run(t, 3, append(processFaults(), networkFaults()...))
}

// TestFaultsFive breaks five.
func TestFaultsFive(t *testing.T) {
	run(t, 5, faultsOfFive())
}

// run has a round for each fault.
func run(t *testing.T, members int, faults []fault) {
	histories := 1
	if *long {
		histories = 3
		faults = append(faults, longFaults()...)
		if members == 5 {
			faults = append(faults, append(processFaults(), networkFaults()...)...)
		}
	}
	for i := range histories {
		t.Run(fmt.Sprintf("history %d", i), func(t *testing.T) {
			d := newDrill(t, members)
			d.form(members)
			rand.New(rand.NewPCG(d.seed, 1)).Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
			for _, f := range faults {
				if !t.Run(f.name, func(t *testing.T) {
					if err := d.during(func() error { return f.strike(d) }); err != nil {
						t.Fatalf("-seed=%d: %v", d.seed, err)
					}
				}) {
					break
				}
			}
			d.finish()
		})
	}
}

func processFaults() []fault {
	return []fault{
		{"kill -9 of a follower", func(d *drill) error { return d.killed(d.follower) }},
		{"kill -9 of the leader", func(d *drill) error { return d.killed(d.anyLeader) }},
		{"kill -9 of all at once", func(d *drill) error {
			up := d.up()
			err := d.each(up, func(n int) error { return d.members[n].kill() })
			for _, n := range up {
				err = errors.Join(err, d.begin(n))
			}
			return err
		}},
		{"the leader stands still", func(d *drill) error { return d.paused(d.anyLeader) }},
		{"a follower stands still", func(d *drill) error { return d.paused(d.follower) }},
		{"all are restarted, one after the other", func(d *drill) error {
			for _, n := range d.up() {
				if err := errors.Join(d.members[n].stop(), d.begin(n), d.serve(n)); err != nil {
					return err
				}
			}
			return nil
		}},
		{"the leader hands over", func(d *drill) error {
			for range d.up() {
				if err := d.handOver(); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// longFaults take their time.
func longFaults() []fault {
	still := func(d *drill, which func() (int, error)) error {
		n, err := which()
		if err != nil {
			return err
		}
		err = d.members[n].pause()
		for range 4 { // leaders come and go meanwhile
			err = errors.Join(err, d.handOverAmong(d.others(n)))
			time.Sleep(5 * time.Second) // part of the fault
		}
		return errors.Join(err, d.members[n].resume())
	}
	return []fault{
		{"the leader stands still for long", func(d *drill) error { return still(d, d.anyLeader) }},
		{"a follower stands still for long", func(d *drill) error { return still(d, d.follower) }},
	}
}

func networkFaults() []fault {
	return []fault{
		{"the leader is cut off, its clients are not", func(d *drill) error { return d.apart(d.anyLeader, true, true) }},
		{"a follower is cut off, its clients are not", func(d *drill) error { return d.apart(d.follower, true, true) }},
		{"the leader is not heard", func(d *drill) error { return d.apart(d.anyLeader, false, true) }},
		{"the leader does not hear", func(d *drill) error { return d.apart(d.anyLeader, true, false) }},
		{"a follower is not heard", func(d *drill) error { return d.apart(d.follower, false, true) }},
		{"a follower does not hear", func(d *drill) error { return d.apart(d.follower, true, false) }},
		{"the leader and a follower do not reach each other", func(d *drill) error {
			leader, err := d.anyLeader()
			if err != nil {
				return err
			}
			n := d.pick(d.others(leader))
			if err := errors.Join(d.cut(leader, n), d.cut(n, leader)); err != nil {
				return err
			}
			for range 3 {
				err = errors.Join(err, d.more(d.others(leader, n)...))
			}
			return err
		}},
		{"lines flap", (*drill).flapping},
		{"lines are slow", func(d *drill) error {
			how, err := d.net.slow()
			if how == "" {
				d.t.Logf("this kernel makes no line slow: %v", err)
				return nil
			}
			d.t.Logf("lines are slow: %s", how)
			return errors.Join(d.more(d.up()...), d.more(d.up()...), d.serve(d.up()...))
		}},
	}
}

func faultsOfFive() []fault {
	minority := func(d *drill) ([]int, error) {
		leader, err := d.anyLeader()
		return []int{leader, d.pick(d.others(leader))}, err
	}
	return []fault{
		{"kill -9 of two, one of them the leader", func(d *drill) error {
			two, err := minority(d)
			err = errors.Join(err, d.each(two, func(n int) error { return d.members[n].kill() }), d.withoutMe(two...))
			for _, n := range two {
				err = errors.Join(err, d.begin(n))
			}
			return err
		}},
		{"two stand still, one of them the leader", func(d *drill) error {
			two, err := minority(d)
			err = errors.Join(err, d.each(two, func(n int) error { return d.members[n].pause() }), d.withoutMe(two...))
			return errors.Join(err, d.each(two, func(n int) error { return d.members[n].resume() }))
		}},
		{"two are cut off, one of them the leader", func(d *drill) error {
			two, err := minority(d)
			for _, n := range two {
				for _, other := range d.others(two...) {
					err = errors.Join(err, d.cut(n, other), d.cut(other, n))
				}
			}
			if err != nil {
				return err
			}
			over := d.loyal(two[0])
			err = d.withoutMe(two...)
			return errors.Join(err, over())
		}},
		{"the leader is not heard", func(d *drill) error { return d.apart(d.anyLeader, false, true) }},
	}
}

func (d *drill) anyLeader() (int, error) { return d.leader(d.up()...) }

func (d *drill) follower() (int, error) {
	leader, err := d.anyLeader()
	return d.pick(d.others(leader)), err
}

// killed kills a member, and starts it again when the others have gone on.
func (d *drill) killed(which func() (int, error)) error {
	n, err := which()
	if err != nil {
		return err
	}
	if err := errors.Join(d.members[n].kill(), d.withoutMe()); err != nil {
		return err
	}
	return d.begin(n)
}

// paused lets a member stand still until the others have gone on, and a few election timeouts longer.
func (d *drill) paused(which func() (int, error)) error {
	n, err := which()
	if err != nil {
		return err
	}
	if err := d.members[n].pause(); err != nil {
		return err
	}
	err = d.withoutMe(n)
	time.Sleep(time.Duration(d.rng.IntN(2500)) * time.Millisecond) // part of the fault
	return errors.Join(err, d.members[n].resume())
}

// apart drops what a member would hear of the others, what they would hear of it, or both. The others go on, and the
// member has clients meanwhile that leave it no more than it leaves them.
func (d *drill) apart(which func() (int, error), hears, isHeard bool) error {
	n, err := which()
	if err != nil {
		return err
	}
	over := d.loyal(n)
	for _, other := range d.others(n) {
		if hears {
			err = errors.Join(err, d.cut(other, n))
		}
		if isHeard {
			err = errors.Join(err, d.cut(n, other))
		}
	}
	if err == nil {
		err = d.withoutMe(n)
	}
	return errors.Join(err, over(), d.net.heal())
}

// cut drops what one member sends to another.
func (d *drill) cut(from, to int) error {
	return d.members[from].host.reach(d.members[to].host, false)
}

// flapping drops what one member sends to another, for a moment, again and again.
func (d *drill) flapping() error {
	up := d.up()
	for range 12 {
		from := d.pick(up)
		to := d.pick(d.others(from))
		if err := d.cut(from, to); err != nil {
			return err
		}
		time.Sleep(time.Duration(50+d.rng.IntN(300)) * time.Millisecond) // part of the fault
		if err := d.members[from].host.reach(d.members[to].host, true); err != nil {
			return err
		}
	}
	return nil
}

// handOver makes another member the leader.
func (d *drill) handOver() error { return d.handOverAmong(d.up()) }

// handOverAmong makes another one of some members the leader, which agree on one of them.
func (d *drill) handOverAmong(members []int) error {
	leader, err := d.leader(members...)
	if err != nil {
		return err
	}
	to := d.pick(without(members, leader))
	return d.until(fmt.Sprintf("member %d as the leader", to), func(ctx context.Context) error {
		s, err := d.status(ctx, to)
		if err != nil {
			return err
		}
		if s.Leader == s.Header.MemberId {
			return nil
		}
		if leader, err = d.leader(members...); err != nil {
			return err
		}
		_, err = pb.NewMaintenanceClient(d.conn(leader)).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: s.Header.MemberId})
		return errors.Join(err, errors.New("asked for it"))
	})
}
