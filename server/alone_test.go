package server

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/server/config"
)

// TestOthers: other members of an initial cluster are refused where servers find each other by themselves, before anything is made.
func TestOthers(t *testing.T) {
	for args, want := range map[string]error{
		"--datastore=postgres://user:secret@db/keelson --name=a --initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2": errEqual,
	} {
		dir := filepath.Join(t.TempDir(), "data")
		opts, _, err := config.Load(config.Input{Args: append(strings.Fields(args), "--data-dir="+dir, "--initial-advertise-peer-urls=http://127.0.0.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), opts, slog.New(slog.DiscardHandler))
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "(b)") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", args, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the data directory was made: %v", args, err)
		}
	}
}

// TestBothData: a directory that an etcd was started on later is told from one of an etcd alone.
func TestBothData(t *testing.T) {
	dir := t.TempDir()
	path, err := DatabasePath(dir)
	if err == nil {
		err = errors.Join(os.WriteFile(path, nil, 0o600), os.Mkdir(filepath.Join(dir, "member", "wal"), 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DatabasePath(dir); err == nil || !strings.Contains(err.Error(), "of Keelson") {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := DatabasePath(dir); err == nil || strings.Contains(err.Error(), "of Keelson") {
		t.Error(err)
	}
}
