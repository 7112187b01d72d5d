package kine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func one(add func(*Change) error) error {
	return add(&Change{ID: 2, Name: "k", Created: true, Value: []byte("v")})
}

// TestFillFile: a file is made where there is nothing, neither a database nor what SQLite has left of one.
func TestFillFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	for _, beside := range []string{"", "-wal", "-journal", "-shm"} {
		if err := os.WriteFile(path+beside, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Fill(t.Context(), SQLite, path, one); !errors.Is(err, ErrExists) {
			t.Errorf("with state.db%s: %v", beside, err)
		}
		if err := os.Remove(path + beside); err != nil {
			t.Fatal(err)
		}
	}
	// What a kill has left is in nobody's way.
	if err := os.WriteFile(path+unfinished, []byte("SQLite format 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Fill(t.Context(), SQLite, path, one); err != nil {
		t.Fatal(err)
	}
	var got []Change
	db, err := Open(t.Context(), SQLite, path)
	if err == nil {
		err = errors.Join(db.All(t.Context(), func(c *Change) error { got = append(got, *c); return nil }), db.Close())
	}
	if err != nil || len(got) != 1 || got[0].ID != 2 || got[0].Name != "k" {
		t.Errorf("it has %+v, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("there is %v, %v", left, err)
	}
}

// TestFillFails: of what fails nothing is left.
func TestFillFails(t *testing.T) {
	path, failed := filepath.Join(t.TempDir(), "state.db"), errors.New("failed")
	err := Fill(t.Context(), SQLite, path, func(add func(*Change) error) error { return errors.Join(one(add), failed) })
	if left, listed := os.ReadDir(filepath.Dir(path)); !errors.Is(err, failed) || listed != nil || len(left) != 0 {
		t.Errorf("%v, and there is %v, %v", err, left, listed)
	}
}

// TestOpenLeaves: what SQLite leaves beside a database in WAL mode that was read is empty and belongs to the database's owner, so that nobody is kept from it.
func TestOpenLeaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := Fill(t.Context(), SQLite, path, one); err != nil {
		t.Fatal(err)
	}
	d, err := open(t.Context(), SQLite, sqliteURI(path, "mode=rw&_journal_mode=WAL"))
	if err == nil {
		_, err = d.db.ExecContext(t.Context(), `UPDATE kine SET lease = 1`)
		err = errors.Join(err, d.Close())
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(path, 65534, 65534)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, path)
	db, err := Open(t.Context(), SQLite, path)
	if err == nil {
		err = errors.Join(db.All(t.Context(), func(*Change) error { return nil }), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, path), before) {
		t.Error("reading has changed the database")
	}
	owner := owned(t, path)
	for _, beside := range []string{"-wal", "-shm"} {
		info, err := os.Stat(path + beside)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || owned(t, path+beside) != owner || beside == "-wal" && info.Size() > 0 {
			t.Errorf("%s: %v, %v, of %d and not of %d", beside, info, err, owned(t, path+beside), owner)
		}
	}
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func owned(t *testing.T, path string) uint32 {
	t.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Uid
}
