package migrate

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate/kine"
)

// TestConversionProved: a table that is not what the source shows is no proof, though it is what was written.
func TestConversionProved(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	rows, _ := table(r, 60)
	path := filepath.Join(t.TempDir(), "snapshot")
	moved(t, Options{From: Place{Kind: Kine, Dialect: kine.SQLite, Where: fill(t, rows)}, To: Place{Kind: Snapshot, Where: path}})
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := -1 // of a change that is seen, late enough to be the last of its key
	for i, c := range rows {
		if c.Key() && !c.Deleted {
			at = i
		}
	}
	for name, fault := range map[string]func(*kine.Change){
		"nothing": func(*kine.Change) {},
		"key":     func(c *kine.Change) { c.Name += "x" }, "value": func(c *kine.Change) { c.Value = append([]byte("x"), c.Value...) },
		"revision": func(c *kine.Change) { c.ID = rows[len(rows)-1].ID + 1 }, "seconds": func(c *kine.Change) { c.Lease++ },
		"delete": func(c *kine.Change) { c.Deleted, c.Created = true, false },
	} {
		changed := append([]kine.Change{}, rows...)
		fault(&changed[at])
		target := &kineTarget{migration: &migration{Options: Options{To: Place{Kind: Kine, Dialect: kine.SQLite, Where: fill(t, changed)}, Progress: func(string, int64, int64) {}}}, sum: newKineSum()}
		seen := newTrace(false)
		for _, c := range read(t, target.To.Where) {
			target.sum.add(&c)
			seen.change(&c)
		}
		proof, err := target.prove(t.Context(), f, &Content{})
		if proof.Source != proof.Target || errors.Is(err, ErrDiffers) != (name != "nothing") || err != nil && !errors.Is(err, ErrDiffers) {
			t.Errorf("with another %s: %+v, %v", name, proof, err)
		}
		// And the other way round.
		if err := seen.equals(f); errors.Is(err, ErrDiffers) != (name != "nothing") {
			t.Errorf("from another %s: %v", name, err)
		}
	}
}
