package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/test/pg"
)

// TestLostScrub: a promoted standby that has every append and not the last scrub is noticed by whoever scrubs on.
func TestLostScrub(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	p, err := pg.StartProxy(s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l := open(t, Options{URL: p.URL("postgres")})
	for id := range byte(5) {
		put(t, l, id+1)
	}
	standby, err := s.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	rows := "SELECT count(*) FROM keelson.log"
	if err := errors.Join(standby.Await(t.Context(), rows, "5"), standby.Stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	epoch := l.Epoch()
	if err := l.ScrubIn(t.Context(), epoch, []int64{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), standby.Restart(t.Context()), standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	p.Redirect(standby)
	p.Cut()
	// Its own connections learn of it, too late for a check before.
	if err := l.ScrubIn(t.Context(), epoch, []int64{3, 4}); !errors.Is(err, drivers.ErrEpoch) {
		t.Errorf("scrub: %v", err)
	}
	if got, err := standby.Query(t.Context(), rows); err != nil || got != "5" {
		t.Errorf("%s rows are left, %v", got, err)
	}
	if now := l.Epoch(); now <= epoch {
		t.Errorf("the epoch was %d and is %d", epoch, now)
	}
	if err := l.ScrubIn(t.Context(), l.Epoch(), []int64{1, 2, 3, 4}); err != nil {
		t.Error(err)
	}
}

// TestTimelineBehindPooler: connections stay while what they lead to is another server. Both a load and a scrub notice.
func TestTimelineBehindPooler(t *testing.T) {
	for name, notice := range map[string]func(*running, uint64) error{
		"load": func(l *running, _ uint64) error {
			_, err := l.Load(context.Background(), false, func([]drivers.Entry) error { return nil })
			return err
		},
		"scrub": func(l *running, epoch uint64) error { return l.ScrubIn(context.Background(), epoch, []int64{1}) },
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, place(t))
			put(t, l, 1)
			put(t, l, 2)
			l.epochs.note("FFFFFFFF") // of the server before
			epoch := l.Epoch()
			if err := notice(l, epoch); (name == "scrub") != errors.Is(err, drivers.ErrEpoch) {
				t.Error(err)
			}
			if now := l.Epoch(); now <= epoch {
				t.Errorf("the epoch was %d and is %d", epoch, now)
			}
			if err := l.ScrubIn(t.Context(), l.Epoch(), []int64{1}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNoTimelines: a database that does not tell its timeline can be used; it has one epoch.
func TestNoTimelines(t *testing.T) {
	s := sharedServer(t)
	name := fmt.Sprintf("plain_%d_%d", os.Getpid(), shared.n.Add(1))
	if err := s.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC",
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'pw'; GRANT CREATE ON DATABASE %[1]s TO %[1]s", name),
	} {
		if _, err := s.QueryIn(t.Context(), name, sql); err != nil {
			t.Fatal(err)
		}
	}
	url := fmt.Sprintf("postgres://%s:pw@%s/%[1]s?sslmode=disable", name, s.Address())
	l := open(t, Options{URL: url})
	put(t, l, 1)
	put(t, l, 2)
	if n := l.Epoch(); n != 0 {
		t.Errorf("epoch %d", n)
	}
	if err := l.ScrubIn(t.Context(), 0, []int64{1}); err != nil {
		t.Error(err)
	}
	got := 0
	if _, err := l.Load(t.Context(), false, func(e []drivers.Entry) error { got += len(e); return nil }); err != nil || got != 1 {
		t.Errorf("%d entries, %v", got, err)
	}
	if _, err := Open(t.Context(), Options{URL: url + "&default_transaction_read_only=on", Logger: l.logger}); !errors.Is(err, drivers.ErrReadOnly) || !strings.Contains(err.Error(), "primary") {
		t.Errorf("a server that cannot be written: %v", err)
	}
}
