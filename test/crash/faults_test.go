package crash

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// refused starts a server that must not start, and gives what it said.
func refused(t *testing.T, srv *server) string {
	t.Helper()
	if err := srv.launch(); err != nil {
		t.Fatal(err)
	}
	err := srv.wait()
	if err == nil || !strings.Contains(err.Error(), "exit status") {
		t.Fatalf("the server ended with %v, want an exit status", err)
	}
	select {
	case <-srv.ready:
		t.Fatal("the server was ready")
	default:
	}
	b, err := os.ReadFile(srv.log)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("goroutine ")) {
		t.Fatal("the server panicked")
	}
	return string(b)
}

// TestSecondProcess starts a second server on the data of a first.
func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	first, second := newServer(t, dir), newServer(t, dir)
	if err := first.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := newClient(first.client)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put := func() {
		t.Helper()
		if _, err := client.Put(t.Context(), "a", "1"); err != nil {
			t.Fatal(err)
		}
	}
	put()
	said := refused(t, second)
	for _, want := range []string{"stop the server that has", filepath.Join("data", "member")} {
		if !strings.Contains(said, want) {
			t.Errorf("the second server does not say %q", want)
		}
	}
	put() // the first one goes on
	if err := first.kill(); err != nil {
		t.Fatal(err)
	}
	if err := second.start(t.Context()); err != nil {
		t.Fatalf("with the first one gone: %v", err)
	}
}

// TestForeignFiles starts the server where something else has its files: it says so and changes nothing.
func TestForeignFiles(t *testing.T) {
	const database = "member/keelson.db"
	otherSQLite := make([]byte, 8192)
	copy(otherSQLite, "SQLite format 3\x00\x10\x00\x01\x01\x00\x40\x20\x20")
	for _, c := range []struct {
		name, path string
		content    []byte
		want       string
	}{
		{"text", database, []byte(strings.Repeat("no database\n", 1000)), "not an SQLite database"},
		{"empty", database, nil, "is empty"},
		{"cut off", database, []byte("SQLite format 3\x00"), "nothing was changed"},
		{"another SQLite database", database, otherSQLite, "nothing was changed"},
		{"etcd's database", "member/snap/db", []byte("bolt"), "take over the data of etcd"},
		{"etcd's log", "member/wal/0.wal", []byte("wal"), "choose another --data-dir"},
		{"a file for a directory", "member", []byte("x"), "member"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := newServer(t, t.TempDir())
			path := filepath.Join(srv.data, c.path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if said := refused(t, srv); !strings.Contains(said, c.want) || !strings.Contains(said, srv.data) {
				t.Errorf("the server does not say %q about %s; it says:\n%s", c.want, srv.data, said)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, c.content) {
				t.Errorf("%s was changed (%v)", c.path, err)
			}
		})
	}
}
