package migrate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/etcdfile"
)

// TestOneOfSeveral: of the data directory of one of several members it is told that it may not be everything.
func TestOneOfSeveral(t *testing.T) {
	for _, n := range []int{1, 3} {
		dir := t.TempDir()
		path := filepath.Join(dir, etcdDatabase)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		err := writeFile(path, func(*etcdfile.Writer) (*etcdfile.Meta, error) {
			m := &etcdfile.Meta{Compact: -1}
			for id := range n {
				m.Members = append(m.Members, etcdfile.Member{ID: uint64(id + 1)})
			}
			complete(m)
			return m, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var plan Plan
		_, err = Run(t.Context(), Options{
			From: Place{Kind: EtcdDir, Where: dir}, To: Place{Kind: Snapshot, Where: filepath.Join(t.TempDir(), "db")}, IgnoreWAL: true, DryRun: true, Plan: func(p Plan) { plan = p },
		})
		if told := strings.Contains(strings.Join(plan.Notes, "\n"), "one of 3 members"); err != nil || told != (n == 3) {
			t.Errorf("%d members: %v, %q", n, err, plan.Notes)
		}
	}
}
