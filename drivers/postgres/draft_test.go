package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/test/pg"
)

// draft begins one, which is discarded with the test.
func draft(t *testing.T, o Options) *Draft {
	t.Helper()
	d, err := NewDraft(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Discard(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill writes n batches to a draft.
func fill(t *testing.T, d *Draft, n byte) (at drivers.End) {
	t.Helper()
	l, err := d.Open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for id := range n {
		at = put(t, l, id+1)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return at
}

// schemas lists those of a log and of its drafts, with how many tables are in each.
func schemas(t *testing.T, o Options) string {
	t.Helper()
	got, err := sharedServer(t).Query(t.Context(), "SELECT nspname, count(relname) FROM pg_namespace n LEFT JOIN pg_class r ON relnamespace = n.oid AND relkind = 'r' WHERE nspname LIKE '"+o.Name+"%' GROUP BY 1 ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.ReplaceAll(got, o.Name, "X"), "\n", " ")
}

// TestDraft: a log is beside its place until it is published, and then it is as if it had been there from the start.
func TestDraft(t *testing.T) { testDraft(t, place(t)) }

// TestDraftBouncer: the same through pgbouncer in transaction mode, where a session is whoever's.
func TestDraftBouncer(t *testing.T) {
	b, err := pg.StartBouncer(t.Context(), sharedServer(t), pg.BouncerOptions{PoolMode: "transaction"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	o := place(t)
	o.URL = b.URL("postgres")
	testDraft(t, o)
}

func testDraft(t *testing.T, o Options) {
	d := draft(t, o)
	at := fill(t, d, 3)
	if got := schemas(t, o); got != "X.restoring|3" {
		t.Errorf("while it is made there is %s", got)
	}
	if _, err := NewDraft(t.Context(), o); !errors.Is(err, ErrBusy) {
		t.Errorf("a second draft: %v", err)
	}
	inspected, err := d.Open(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if got := end(t, inspected); got != at {
		t.Errorf("inspected, it ends at %v", got)
	}
	if err := errors.Join(inspected.Close(), d.Publish(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := schemas(t, o); got != "X|3" {
		t.Errorf("afterwards there is %s", got)
	}
	if err := d.Discard(); err != nil {
		t.Error(err)
	}
	l := open(t, o)
	if got := end(t, l); got != at {
		t.Errorf("published, it ends at %v, and not at %v", got, at)
	}
	put(t, l, 9)
	if err := l.Scrub(t.Context(), []int64{1}); err != nil {
		t.Error(err)
	}
	if _, err := NewDraft(t.Context(), o); !errors.Is(err, ErrExists) {
		t.Errorf("where there is a log: %v", err)
	}
	if got := schemas(t, o); got != "X|3" {
		t.Errorf("in the end there is %s", got)
	}
}

// TestDraftDiscarded: nothing is left of it, and what a killed process has left is removed.
func TestDraftDiscarded(t *testing.T) {
	o := place(t)
	d := draft(t, o)
	fill(t, d, 2)
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
	if got := schemas(t, o); got != "" {
		t.Errorf("it leaves %s", got)
	}
	killed, err := NewDraft(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, killed, 2)
	if err := killed.claim.Conn().Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	killed.end()
	if got := schemas(t, o); got != "X.restoring|3" {
		t.Errorf("a kill leaves %s", got)
	}
	next := draft(t, o)
	fill(t, next, 1)
	if err := next.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := end(t, open(t, o)); got.Position != 1 {
		t.Errorf("the next one ends at %v", got)
	}
}

// TestDraftOvertaken: a server that is started meanwhile keeps what it has made.
func TestDraftOvertaken(t *testing.T) {
	o := place(t)
	d := draft(t, o)
	fill(t, d, 2)
	l := open(t, o)
	at := put(t, l, 7)
	if err := d.Publish(t.Context()); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	if err := d.Discard(); err != nil {
		t.Error(err)
	}
	if got := end(t, l); got != at {
		t.Errorf("its log ends at %v", got)
	}
	if got := schemas(t, o); got != "X|3" {
		t.Errorf("there is %s", got)
	}
}

// TestDraftAtOnce: of a server that is started at the very moment and the draft one makes the log, and the server serves whichever it is.
func TestDraftAtOnce(t *testing.T) {
	for range 20 {
		o := place(t)
		d := draft(t, o)
		fill(t, d, 2)
		opened := make(chan error, 1)
		var l *Log
		go func() {
			var err error
			l, err = Open(t.Context(), o)
			opened <- err
		}()
		published := d.Publish(t.Context())
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
		got := end(t, l).Position
		if published == nil && got != 2 || errors.Is(published, ErrExists) && got != 0 || published != nil && !errors.Is(published, ErrExists) {
			t.Errorf("published: %v, and the log ends at %d", published, got)
		}
		put(t, l, 5)
		if err := errors.Join(l.Close(), d.Discard()); err != nil {
			t.Error(err)
		}
		if got := schemas(t, o); got != "X|3" {
			t.Errorf("there is %s", got)
		}
	}
}

// TestDraftPlaces: a schema that an operator has made is used, one with somebody else's tables is left alone.
func TestDraftPlaces(t *testing.T) {
	query := func(sql string) {
		t.Helper()
		if _, err := sharedServer(t).Query(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	o := place(t)
	query("CREATE SCHEMA " + o.Name)
	d := draft(t, o)
	at := fill(t, d, 2)
	if err := d.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := end(t, open(t, o)); got != at {
		t.Errorf("it ends at %v", got)
	}
	other := place(t)
	query("CREATE SCHEMA " + other.Name + "; CREATE TABLE " + other.Name + ".log (n int)")
	if _, err := NewDraft(t.Context(), other); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	third := place(t)
	query(`CREATE SCHEMA "` + third.Name + `.restoring"; CREATE TABLE "` + third.Name + `.restoring".mine (n int)`)
	if _, err := NewDraft(t.Context(), third); !errors.Is(err, drivers.ErrForeign) {
		t.Error(err)
	}
	if got := schemas(t, third); got != "X.restoring|1" {
		t.Errorf("there is %s", got)
	}
	third.Name = "Wrong"
	if _, err := NewDraft(t.Context(), third); err == nil {
		t.Error("a name that no log can have was taken")
	}
}

// TestDraftAnothers: a log that somebody else has put at the place is not taken for the draft, one on which a server has gone on is.
func TestDraftAnothers(t *testing.T) {
	for _, own := range []bool{false, true} {
		o := place(t)
		d := draft(t, o)
		fill(t, d, 2)
		if err := d.mark(t.Context()); err != nil {
			t.Fatal(err)
		}
		if own {
			if err := d.Publish(t.Context()); err != nil {
				t.Fatal(err)
			}
			put(t, open(t, o), 9)
		} else {
			if err := d.claim.Conn().Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			held := fmt.Sprintf("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %d AND objid::bigint = hashtext('%s')::bigint & 4294967295", migrationLock, o.Name)
			if err := sharedServer(t).Await(t.Context(), held, "0"); err != nil {
				t.Fatal(err)
			}
			other := draft(t, o)
			l, err := other.Open(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			for id := range byte(3) {
				put(t, l, id+100)
			}
			if err := errors.Join(l.Close(), other.Publish(t.Context()), other.Discard()); err != nil {
				t.Fatal(err)
			}
		}
		if done, err := d.published(t.Context()); err != nil || done != own {
			t.Errorf("own %v: published %v, %v", own, done, err)
		}
	}
}

// TestTimeouts: no timeout that a role has by default ends what lasts long: a draft's claim, and the transaction in which a log is loaded.
func TestTimeouts(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	if err := s.CreateDatabase(t.Context(), "impatient"); err != nil {
		t.Fatal(err)
	}
	version, err := s.Query(t.Context(), "SELECT current_setting('server_version_num')")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"idle_in_transaction_session_timeout"}
	if version >= "170000" {
		names = append(names, "transaction_timeout")
	}
	for _, name := range names {
		if _, err := s.Query(t.Context(), "ALTER DATABASE impatient SET "+name+" = '1min'"); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{URL: s.URL("impatient")}
	l := open(t, o)
	f, err := l.snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	o.Name = "another"
	d := draft(t, o)
	for _, name := range names {
		zero := func(ctx context.Context, c *pgconn.PgConn) error {
			if row, err := one(ctx, c, "SELECT current_setting('"+name+"')"); err != nil || row[0] != "0" {
				t.Errorf("%s is %v, %v", name, row, err)
			}
			return nil
		}
		if err := errors.Join(f.exchange(t.Context(), zero), d.claimed(t.Context(), zero)); err != nil {
			t.Error(err)
		}
	}
}

// TestDraftLost: a draft that has lost its claim is not published; a commit whose answer is lost is looked up.
func TestDraftLost(t *testing.T) {
	o := place(t)
	d := draft(t, o)
	fill(t, d, 2)
	if err := d.claim.Conn().Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(t.Context()); err == nil {
		t.Error("it was published")
	}
	if got := schemas(t, o); got != "X.restoring|3" {
		t.Errorf("there is %s", got)
	}
	for _, done := range []bool{true, false} {
		f := new(faults)
		o := place(t)
		o.dial = f.dial
		d := draft(t, o)
		at := fill(t, d, 2)
		f.arm(fault{at: []byte("SET SCHEMA"), forward: done})
		if err := d.Publish(t.Context()); (err == nil) != done {
			t.Errorf("done %v: %v", done, err)
		}
		want := "X.restoring|3"
		if done {
			want = "X|3"
		}
		if got := schemas(t, o); got != want {
			t.Errorf("done %v: there is %s", done, got)
		}
		if done {
			if got := end(t, open(t, o)); got != at {
				t.Errorf("it ends at %v", got)
			}
		}
	}
}
