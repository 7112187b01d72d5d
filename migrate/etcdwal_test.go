package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keelson-io/keelson/etcdfile"
)

// TestCheckWAL: without a log nobody knows whether the database is all, and one that is not whole is none. What a real etcd leaves is tested in test/conformance/migrate.
func TestCheckWAL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), etcdWAL)
	if err := checkWAL(dir, 1000); !errors.Is(err, ErrBehind) {
		t.Errorf("without a log: %v", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkWAL(dir, 1000); !errors.Is(err, ErrBehind) {
		t.Errorf("with an empty one: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkWAL(dir, 1000); !errors.Is(err, etcdfile.ErrWAL) {
		t.Errorf("with an empty file: %v", err)
	}
}
