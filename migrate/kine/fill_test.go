package kine

import (
	"errors"
	"os"
	"path/filepath"
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
