package backup

import (
	"testing"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/pg"
)

// TestPostgres: of two servers on one database the keeper makes the backups, and then the other one.
func TestPostgres(t *testing.T) {
	database, err := pg.Start(t.Context(), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := database.Close(); err != nil {
			t.Error(err)
		}
	})
	p := directory(t)
	o := launch.Options{Flags: append(p.flags, "--backup-schedule=@every 1s", "--datastore="+database.URL("postgres"))}
	first := start(t, o)[0]
	until(t, "the first one makes backups", func() bool { return first.metric(t, made) >= 2 })
	second := start(t, o)[0]
	before := first.metric(t, made)
	until(t, "it goes on", func() bool { return first.metric(t, made) >= before+2 })
	if n := second.metric(t, made); n > 0 {
		t.Errorf("the second one has made %v", n)
	}
	stop := load(t, first)
	until(t, "it goes on under load", func() bool { return first.metric(t, made) >= before+4 })
	stop()
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	until(t, "the second one makes them", func() bool { return second.metric(t, made) >= 2 })
	all := p.sound(t)
	for _, b := range all {
		if b.Cluster != all[0].Cluster {
			t.Errorf("%+v and %+v are of one cluster", all[0], b)
		}
	}
	p.restored(t, second, all[len(all)-1])
}
