package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate/kine"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/restore"
)

// small is a file of a member, without a hash.
func small(t *testing.T, meta etcdfile.Meta) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	err := writeFile(path, func(w *etcdfile.Writer) (*etcdfile.Meta, error) {
		for i := int64(2); i < 50; i++ {
			b, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, ModRevision: i, Version: i - 1})
			if err = errors.Join(err, w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: i}, KeyValue: b})); err != nil {
				return nil, err
			}
		}
		return &meta, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// targets are places under a directory at which there is nothing.
func targets(dir string) []Place {
	return []Place{
		{Kind: Snapshot, Where: filepath.Join(dir, "snapshot")}, {Kind: KeelsonDir, Where: filepath.Join(dir, "data")},
		{Kind: Kine, Dialect: kine.SQLite, Where: filepath.Join(dir, "state.db")},
	}
}

// TestNothingOverwritten: a target that is there is refused and stays as it is; what an attempt before has left beside it does not matter.
func TestNothingOverwritten(t *testing.T) {
	from := Place{Kind: Snapshot, Where: small(t, etcdfile.Meta{Compact: -1})}
	dir := t.TempDir()
	for _, to := range targets(dir) {
		o := Options{From: from, To: to, Member: config.Default(), Accept: true, Logger: quiet()}
		left := to.Where + unfinished
		if to.Kind == KeelsonDir {
			left = filepath.Join(to.Where, server.Restoring, "member")
			if err := os.MkdirAll(left, 0o700); err != nil {
				t.Fatal(err)
			}
			left = filepath.Join(left, "keelson.db")
		}
		if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		proof := moved(t, o)
		if proof.Source != proof.Target || proof.Target.Keys != 1 || proof.Target.Revision != 49 {
			t.Errorf("%v: %+v", to, proof)
		}
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrNotEmpty) && !errors.Is(err, kine.ErrExists) {
			t.Errorf("%v again: %v", to, err)
		}
	}
	got, err := os.ReadDir(dir)
	if err != nil || len(got) != 3 {
		t.Errorf("there is %v, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", server.Restoring)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left is there: %v", err)
	}
}

// TestUnreadable: what cannot be read to its end makes nothing.
func TestUnreadable(t *testing.T) {
	path := small(t, etcdfile.Meta{Compact: -1})
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, to := range targets(dir) {
		if _, err := Run(t.Context(), Options{From: Place{Kind: Snapshot, Where: path}, To: to, Member: config.Default(), Accept: true, Logger: quiet()}); !errors.Is(err, etcdfile.ErrDamaged) {
			t.Errorf("%v: %v", to, err)
		}
	}
	if got, err := os.ReadDir(dir); err != nil || len(got) != 0 {
		t.Errorf("there is %v, %v", got, err)
	}
}

// TestAuthEnabled: a server that cannot ask for passwords does not get what is behind them.
func TestAuthEnabled(t *testing.T) {
	meta := etcdfile.Meta{Compact: -1, Auth: etcdfile.Auth{Enabled: true, Revision: 4, Users: []*authpb.User{{Name: []byte("root"), Password: []byte("x"), Options: &authpb.UserAddOptions{}}}}}
	from := Place{Kind: Snapshot, Where: small(t, meta)}
	for _, to := range targets(t.TempDir()) {
		o := Options{From: from, To: to, Member: config.Default(), Accept: true, Logger: quiet()}
		switch _, err := Run(t.Context(), o); {
		case to.Kind == Snapshot && err != nil, to.Kind != Snapshot && err == nil, to.Kind == KeelsonDir && !errors.Is(err, restore.ErrAuth):
			t.Errorf("%v: %v", to, err)
		}
	}
}

// TestDryRun writes nothing, and tells what would be lost.
func TestDryRun(t *testing.T) {
	from := Place{Kind: Snapshot, Where: small(t, etcdfile.Meta{Compact: -1})}
	dir := t.TempDir()
	for _, to := range targets(dir) {
		var lost []string
		o := Options{From: from, To: to, Member: config.Default(), DryRun: true, Logger: quiet(), Plan: func(p Plan) { lost = p.Lost }}
		if proof, err := Run(t.Context(), o); err != nil || proof.Of != "" || (to.Kind == Kine) != (len(lost) > 0) {
			t.Errorf("%v: %+v, %v, %q", to, proof, err, lost)
		}
	}
	if got, err := os.ReadDir(dir); err != nil || len(got) != 0 {
		t.Errorf("there is %v, %v", got, err)
	}
}
