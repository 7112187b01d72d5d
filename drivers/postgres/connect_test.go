package postgres

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/test/pg"
)

// TestSignals: notifications are used where a message to oneself comes back, and polling where it does not; either way
// others' appends are noticed without being asked for.
func TestSignals(t *testing.T) {
	s := sharedServer(t)
	b, err := pg.StartBouncer(t.Context(), s, pg.BouncerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for says, url := range map[string]string{
		"listening to the database's notifications": s.URL("postgres"),
		"polling instead": b.URL("postgres"),
	} {
		t.Run(says, func(t *testing.T) {
			var log lockedBuffer
			o := place(t)
			o.URL, o.Logger = url, slog.New(slog.NewTextHandler(&log, nil))
			a := open(t, o)
			log.await(t, says)
			other := open(t, o)
			for i := range 20 {
				seen := end(t, a)
				put(t, other, byte(i+1))
				if err := a.Moved(t.Context(), seen); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestCompany: servers that know of each other send notifications, which arrive long before a poll.
func TestCompany(t *testing.T) {
	o := place(t)
	o.PollListening = time.Hour
	a, b := open(t, o), open(t, o)
	for i, l := range []*running{a, b} {
		if _, err := l.Announce(t.Context(), drivers.Server{ID: uint64(i), Instance: drivers.BatchID{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Announce(t.Context(), drivers.Server{Instance: drivers.BatchID{0}}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		l, other := a, b
		if i%2 == 1 {
			l, other = b, a
		}
		seen := end(t, other)
		put(t, l, byte(i+1))
		if err := other.Moved(t.Context(), seen); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCredentials: a client certificate, a password in a file that changes, and one in the environment.
func TestCredentials(t *testing.T) {
	s := pg.Run(t, pg.Options{TLS: true})
	put(t, open(t, Options{URL: s.TLSURL("postgres"), Name: "by_certificate"}), 1)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(s.Password()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bare := "postgres://postgres@" + s.Address() + "/postgres?sslmode=disable"
	l := open(t, Options{URL: bare, PasswordFile: file, Name: "by_file"})
	put(t, l, 1)
	if _, err := s.Query(t.Context(), "ALTER ROLE postgres PASSWORD 'another'"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.pool.Reset()
	put(t, l, 2)
	t.Setenv("PGPASSWORD", "another")
	put(t, open(t, Options{URL: bare, Name: "by_environment"}), 1)
}

// TestNames: logs in one database do not know of each other.
func TestNames(t *testing.T) {
	o := place(t)
	other := o
	other.Name += "-other"
	a, b := open(t, o), open(t, other)
	put(t, a, 1)
	if got := end(t, b); got != (drivers.End{}) {
		t.Errorf("the other log ends at %v", got)
	}
	put(t, b, 2)
	put(t, b, 3)
	if got := end(t, a); got.Position != 1 {
		t.Errorf("the log ends at %v", got)
	}
}

// TestInspection: what is read does not change while it is read, and nothing is written.
func TestInspection(t *testing.T) {
	o := place(t)
	l := open(t, o)
	before := put(t, l, 1)
	o.ReadOnly = true
	r := open(t, o)
	put(t, l, 2)
	if got := end(t, r); got != before {
		t.Errorf("the log ends at %v, it was opened at %v", got, before)
	}
	n := 0
	count := func(e []drivers.Entry) error { n += len(e); return nil }
	if err := r.Scan(t.Context(), drivers.ScanOptions{Values: true}, count); err != nil || n != 1 {
		t.Errorf("%d entries, %v", n, err)
	}
	if _, err := r.Load(t.Context(), false, count); err != nil || n != 2 {
		t.Errorf("%d entries, %v", n, err)
	}
	for what, err := range map[string]error{
		"append": r.Append(t.Context(), before, batch(9)),
		"scrub":  r.Scrub(t.Context(), []int64{1}),
	} {
		if err == nil || !strings.Contains(err.Error(), drivers.ErrReadOnly.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.Check(t.Context(), func(f string) { t.Error(f) }); err != nil {
		t.Error(err)
	}
}

// TestCheck: what breaks the rules of a log is found.
func TestCheck(t *testing.T) {
	s := sharedServer(t)
	for sql, finding := range map[string]string{
		"DELETE FROM {s}.log WHERE position = 2":                                                       "are missing",
		"UPDATE {s}.head SET scrubbed = 99":                                                            "scrubbed up to 99",
		"UPDATE {s}.log SET written = NULL WHERE position = 1":                                         "part of a batch",
		"UPDATE {s}.log SET meta = '' WHERE position = 3":                                              "without a meta",
		"UPDATE {s}.log SET kind = 256 WHERE position = 3":                                             "impossible kind",
		"UPDATE {s}.log SET batch = (SELECT batch FROM {s}.log WHERE position = 1) WHERE position = 2": "come twice",
		"UPDATE {s}.log SET position = -1 WHERE position = 1":                                          "below position 1",
	} {
		o := place(t)
		l := open(t, o)
		for i := range 4 {
			put(t, l, byte(i+1))
		}
		if err := l.Check(t.Context(), func(f string) { t.Errorf("a sound log: %s", f) }); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Query(t.Context(), strings.ReplaceAll(sql, "{s}", o.Name)); err != nil {
			t.Fatal(err)
		}
		var found []string
		if err := l.Check(t.Context(), func(f string) { found = append(found, f) }); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(found, "\n"), finding) {
			t.Errorf("%s: found %q", sql, found)
		}
	}
}

// TestDefragment: most of a log that was scrubbed is given back, while others append.
func TestDefragment(t *testing.T) {
	o := place(t)
	var log lockedBuffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	l := open(t, o)
	log.await(t, "listening to")
	var after drivers.End
	for i := range 40 {
		b := &drivers.Batch{ID: drivers.BatchID{byte(i + 1)}, Time: time.Now()}
		for range 200 {
			b.Entries = append(b.Entries, drivers.Entry{Kind: 1, Meta: []byte("m"), Value: make([]byte, 6000)})
		}
		if err := l.Append(t.Context(), after, b); err != nil {
			t.Fatal(err)
		}
		after = drivers.End{Position: after.Position + 200, Batch: b.ID}
	}
	before, _, err := l.Size(t.Context())
	if err != nil || before < 40<<20 {
		t.Fatalf("a size of %d, %v", before, err)
	}
	var gone []int64
	for p := int64(1); p < after.Position; p++ {
		if p%10 != 0 {
			gone = append(gone, p)
		}
	}
	if err := l.Scrub(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if err := l.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, inUse, err := l.Size(t.Context())
	if err != nil || now > before/4 || inUse > now {
		t.Errorf("a size of %d, %d in use, was %d, %v", now, inUse, before, err)
	}
	put(t, l, 99)
	if err := l.Check(t.Context(), func(f string) { t.Error(f) }); err != nil {
		t.Error(err)
	}
}
