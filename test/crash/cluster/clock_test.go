package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// briefTTL is the TTL in seconds of leases that nobody keeps.
const briefTTL = 2

// TestClocks sets the wall clocks of members, whose program was built with a package time that allows it (make
// clock-server). Time as it passes is not changed by that, and nothing may come of it: kept leases stay, others end.
func TestClocks(t *testing.T) {
	d := newDrill(t, 3)
	for _, m := range d.members {
		m.binary = binary(t, *serverName+"-clock")
		m.clock = filepath.Join(m.dir, "clock")
	}
	d.form(3)
	const hour, year = 3600, 365 * 24 * 3600
	for _, s := range []struct {
		name  string
		which func() (int, error)
		by    int
	}{
		{"the leader's clock is an hour ahead", d.anyLeader, hour},
		{"a follower's clock is an hour ahead", d.follower, hour},
		{"the leader's clock is an hour behind", d.anyLeader, -hour},
		{"a follower's clock is years behind", d.follower, -30 * year},
		{"the leader's clock is years ahead", d.anyLeader, 10 * year},
	} {
		d.step(s.name, func() error {
			n, err := s.which()
			if err != nil {
				return err
			}
			before, err := d.brief(n)
			if err != nil {
				return err
			}
			if err := d.setClock(n, s.by); err != nil {
				return err
			}
			after, err := d.brief(n)
			if err != nil {
				return err
			}
			return errors.Join(d.more(d.up()...), d.over(before, after))
		})
	}
	d.step("the leader hands over, and all clocks differ", func() error {
		for n := range d.members {
			if err := d.setClock(n, (n-1)*24*hour); err != nil {
				return err
			}
		}
		return d.handOver()
	})
	d.step("all are killed, and their clocks are set before they start", func() error {
		if err := d.each(d.up(), func(n int) error { return d.members[n].kill() }); err != nil {
			return err
		}
		for n, m := range d.members {
			if err := m.offBy((1 - n) * 24 * hour); err != nil {
				return err
			}
			if err := d.begin(n); err != nil {
				return err
			}
		}
		return nil
	})
	d.finish()
}

// brief is a lease that nobody keeps.
type brief struct {
	id, ttl int64
	asked   time.Time // when it was asked for
}

func (d *drill) brief(n int) (b brief, err error) {
	return b, d.until("a lease that nobody keeps", func(ctx context.Context) error {
		asked := time.Now()
		r, err := pb.NewLeaseClient(d.conn(n)).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: briefTTL})
		b = brief{r.GetID(), r.GetTTL(), asked}
		return err
	})
}

// over waits for the ends of leases, which must not come before their time.
func (d *drill) over(leases ...brief) error {
	for _, b := range leases {
		var ended time.Time
		err := d.until(fmt.Sprintf("the end of lease %x", b.id), func(ctx context.Context) error {
			r, err := pb.NewLeaseClient(d.conn(d.pick(d.up()))).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: b.id})
			if err != nil {
				return err
			}
			if r.TTL >= 0 {
				return fmt.Errorf("it has %d s", r.TTL)
			}
			ended = time.Now()
			return nil
		})
		if err != nil {
			return err
		}
		if left := b.asked.Add(time.Duration(b.ttl) * time.Second).Sub(ended); left > 0 {
			return fmt.Errorf("lease %x, %v left: %w", b.id, left, errEarly)
		}
	}
	return nil
}

// setClock sets a running member's wall clock, and waits until the member has told a time that is as far off.
func (d *drill) setClock(n, by int) error {
	m := d.members[n]
	off := time.Duration(by) * time.Second
	set := time.Now().Truncate(time.Second)
	if err := m.offBy(by); err != nil {
		return err
	}
	return d.until(fmt.Sprintf("member %d to be off by %v", n, off), func(context.Context) error {
		log, err := os.ReadFile(m.logPath())
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			_, told, _ := strings.Cut(line, "clock: it is now ")
			told, _, _ = strings.Cut(told, ",")
			at, err := time.Parse(time.RFC3339, told)
			if err == nil && !at.Add(-off).Before(set) && !at.Add(-off).After(time.Now()) {
				return nil
			}
		}
		return errors.New("it tells no such time")
	})
}
