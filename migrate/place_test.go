package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/migrate/kine"
)

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]Place{
		"http://a:1,http://b:2":         {Kind: Endpoint, Where: "http://a:1,http://b:2"},
		"https://a:1":                   {Kind: Endpoint, Where: "https://a:1"},
		"dir:x/y":                       {Kind: KeelsonDir, Where: "x/y"},
		"snapshot:x":                    {Kind: Snapshot, Where: "x"},
		"snapshot://x":                  {Kind: Snapshot, Where: "x"},
		"kine+sqlite:x":                 {Kind: Kine, Dialect: kine.SQLite, Where: "x"},
		"kine+sqlite:///x?cache=y":      {Kind: Kine, Dialect: kine.SQLite, Where: "/x"},
		"kine+mysql://u:p@tcp(h)/d":     {Kind: Kine, Dialect: kine.MySQL, Where: "u:p@tcp(h)/d"},
		"kine+postgres://u:p@h/d":       {Kind: Kine, Dialect: kine.Postgres, Where: "postgres://u:p@h/d"},
		"postgres://u:p@h/d?x=y":        {Kind: Datastore, Where: "postgres://u:p@h/d?x=y"},
		"postgres://h?datastore-name=n": {Kind: Datastore, Where: "postgres://h", Log: "n"},
	} {
		if got, err := ParseTarget(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v, and not %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "dir:", "snapshot:", "mysql://u@tcp(h)/d", "sqlite:x", "keelson+postgres://h", "etcd://h:2379"} {
		if got, err := ParseTarget(text); !errors.Is(err, ErrPlace) {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
}

// TestParseSource: what is there says what it is.
func TestParseSource(t *testing.T) {
	base := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("keelson/member/keelson.db", "SQLite format 3\x00")
	write("etcd/member/snap/db", "x")
	write("else/x", "x")
	write("both/member/keelson.db", "SQLite format 3\x00")
	write("both/member/snap/db", "x")
	sqlite := write("state.db", "SQLite format 3\x00...")
	file := write("snap", "xxxxxxxxxxxxxxxxxxxxxxxx")
	for text, want := range map[string]Place{
		filepath.Join(base, "keelson"):       {Kind: KeelsonDir, Where: filepath.Join(base, "keelson")},
		"dir:" + filepath.Join(base, "etcd"): {Kind: EtcdDir, Where: filepath.Join(base, "etcd")},
		"kine+sqlite:" + sqlite:              {Kind: Kine, Dialect: kine.SQLite, Where: sqlite},
		sqlite:                               {Kind: Kine, Dialect: kine.SQLite, Where: sqlite},
		file:                                 {Kind: Snapshot, Where: file},
		"snapshot:" + file:                   {Kind: Snapshot, Where: file},
	} {
		if got, err := ParseSource(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v, and not %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"dir:" + filepath.Join(base, "else"), filepath.Join(base, "both"), filepath.Join(base, "keelson", "member", "keelson.db"), "127.0.0.1:2379", "etcd://h:2379"} {
		if got, err := ParseSource(text); !errors.Is(err, ErrPlace) {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{filepath.Join(base, "none"), "snapshot:" + filepath.Join(base, "none"), "kine+sqlite:" + filepath.Join(base, "none")} {
		if got, err := ParseSource(text); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
}

// TestNoPasswords: what is printed has none, neither of a place nor of what is none.
func TestNoPasswords(t *testing.T) {
	for _, text := range []string{
		"kine+mysql://u:secret@tcp(h:1)/d", "kine+mysql://u:secret@h:1/d", "kine+mysql://u:secret", "kine+mysql:secret", "kine+postgres://u:secret@h/d?password=secret", "kine+postgres://u:1#secret@h/d",
		"kine+postgres://u:1/secret@h/d", "postgres://u:secret@h/d?sslpassword=secret", "postgres://u:secret@h:port/d", "postgres://u:1?secret@h/d", "u:secret@tcp(h)/d", "https://u:secret@h:1",
		"mysql://u:secret@tcp(h)/d", "secret@h:2379",
	} {
		for _, parse := range []func(string) (Place, error){ParseSource, ParseTarget} {
			p, err := parse(text)
			if s := p.String(); strings.Contains(s, "secret") || err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q is %q, %v", text, s, err)
			}
		}
	}
}

// TestPasswordFile: the password of a kine's database may be in a file.
func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("sec:ret \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"kine+mysql://u@tcp(h:1)/d":   "u:sec:ret @tcp(h:1)/d",
		"kine+postgres://u:old@h:1/d": "postgres://u:sec%3Aret%20@h:1/d",
	} {
		p, err := ParseTarget(text)
		if err != nil {
			t.Fatal(err)
		}
		p.PasswordFile = file
		if got, err := p.source(); got != want || err != nil {
			t.Errorf("%s is %q, %v", text, got, err)
		}
		p.PasswordFile = file + "none"
		if _, err := p.source(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
