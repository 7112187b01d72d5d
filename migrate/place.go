package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keelson-io/keelson/migrate/kine"
)

// Kind says what is at a place.
type Kind int

const (
	// Endpoint is a running etcd or Keelson.
	Endpoint Kind = iota + 1
	// EtcdDir is the data directory of an etcd that was stopped.
	EtcdDir
	// Snapshot is an etcd database file, as etcdctl snapshot save makes it, or a member's own.
	Snapshot
	// KeelsonDir is the data directory of a Keelson that is stopped, or is yet to be started.
	KeelsonDir
	// Datastore is a Keelson log in Postgres.
	Datastore
	// Kine is the table of a kine.
	Kine
)

// Place is where a store is, or is to be.
type Place struct {
	Kind Kind
	// Where is a path, a URL, or for kine what its driver takes. It may have a password: String has none.
	Where string
	// Dialect is kine's database.
	Dialect kine.Dialect
	// Log is the name of a Datastore's log, empty for the usual one.
	Log string
	// PasswordFile has the password of a Datastore or of a kine's database and nothing else, but for a final end of line. It goes before one in Where.
	PasswordFile string
}

// ErrPlace says that a text names no place.
var ErrPlace = errors.New("no place of a store")

func noPlace(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrPlace, fmt.Sprintf(format, args...))
}

// ParseSource finds what a text names, looking at the files there are.
func ParseSource(text string) (Place, error) {
	p, path, err := scheme(text)
	switch {
	case err != nil:
		return Place{}, err
	case p.Kind == 0 || p.Kind == KeelsonDir:
		p, err := detect(path)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(text, "@") {
			// It may be a database's, with a password, and is not shown.
			return Place{}, noPlace("what is named is no file that is there, nor of a form that is known: a kine's database is kine+postgres://… or kine+mysql://…, a Keelson's log postgres://…")
		}
		if _, port, split := net.SplitHostPort(text); errors.Is(err, fs.ErrNotExist) && split == nil && port != "" {
			err = noPlace("there is no file %q; a running server is named by its URL, http://%s or https://%s", text, text, text)
		}
		return p, err
	case p.Kind == Snapshot || p.Kind == Kine && p.Dialect == kine.SQLite:
		if _, err := os.Stat(path); err != nil {
			return Place{}, err
		}
	}
	return p, nil
}

// ParseTarget finds what a text names. What is to be made must be named with its kind.
func ParseTarget(text string) (Place, error) {
	p, _, err := scheme(text)
	if err == nil && p.Kind == 0 {
		if strings.Contains(text, "@") {
			text = "PATH" // what it is may have a password
		}
		err = noPlace("%s does not say what is to be made: dir:%s is the data directory of a Keelson, snapshot:%s an etcd snapshot, kine+sqlite:%s a kine's database", text, text, text, text)
	}
	return p, err
}

// scheme reads what stands before a path, which it gives too. Without it the kind is 0.
func scheme(text string) (p Place, path string, err error) {
	before, rest, ok := strings.Cut(text, ":")
	if !ok || text == "" {
		before = ""
	}
	switch before {
	case "http", "https":
		if strings.Contains(rest, "@") {
			return p, "", noPlace("a user is named with --user, and not in the URL of a server")
		}
		return Place{Kind: Endpoint, Where: text}, "", nil
	case "postgres", "postgresql":
		p, err = datastore(text)
		return p, "", err
	case "dir":
		return Place{Kind: KeelsonDir, Where: rest}, rest, nonEmpty(rest, text)
	case "snapshot", "file":
		rest = strings.TrimPrefix(rest, "//")
		return Place{Kind: Snapshot, Where: rest}, rest, nonEmpty(rest, text)
	case "kine+sqlite":
		path, _, _ = strings.Cut(strings.TrimPrefix(rest, "//"), "?")
		return Place{Kind: Kine, Dialect: kine.SQLite, Where: path}, path, nonEmpty(path, text)
	case "kine+postgres", "kine+postgresql":
		return Place{Kind: Kine, Dialect: kine.Postgres, Where: strings.TrimPrefix(text, "kine+")}, "", nil
	case "kine+mysql":
		return Place{Kind: Kine, Dialect: kine.MySQL, Where: strings.TrimPrefix(rest, "//")}, "", nil
	case "sqlite", "mysql", "keelson+postgres":
		return p, "", noPlace("%s:… is none of those that are known: kine's database is kine+%s:…, a Keelson's is postgres://… or dir:PATH", before, strings.TrimPrefix(before, "keelson+"))
	}
	if ok && strings.HasPrefix(rest, "//") {
		return p, "", noPlace("%s://… is none of those that are known: http, https, postgres, kine+sqlite, kine+postgres, kine+mysql, and dir:PATH, snapshot:PATH", before)
	}
	return p, text, nonEmpty(text, text)
}

func nonEmpty(path, text string) error {
	if path == "" {
		return noPlace("%q has no path", text)
	}
	return nil
}

// datastore reads a URL of Keelson's --datastore, with the log's name as the parameter datastore-name.
func datastore(text string) (Place, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Place{}, noPlace("the URL of the database cannot be read") // the error would have its password
	}
	q := u.Query()
	p := Place{Kind: Datastore, Log: q.Get("datastore-name")}
	q.Del("datastore-name")
	u.RawQuery = q.Encode()
	p.Where = u.String()
	return p, nil
}

// detect says what is at a path.
func detect(path string) (Place, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Place{}, err
	}
	if !info.IsDir() {
		return detectFile(path)
	}
	p := Place{Where: path}
	for name, kind := range map[string]Kind{keelsonFile: KeelsonDir, etcdDatabase: EtcdDir} {
		switch _, err := os.Stat(filepath.Join(path, name)); {
		case err == nil && p.Kind != 0:
			return Place{}, noPlace("%s has both %s, of a Keelson, and %s, of an etcd: move one of them away", path, keelsonFile, etcdDatabase)
		case err == nil:
			p.Kind = kind
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR): // Keelson has a file where an etcd wants its directory
			return Place{}, err
		}
	}
	if p.Kind == 0 {
		return Place{}, noPlace("%s has neither %s, as a Keelson's data directory, nor %s, as an etcd's", path, keelsonFile, etcdDatabase)
	}
	return p, nil
}

var (
	keelsonFile  = filepath.Join("member", "keelson.db")
	etcdDatabase = filepath.Join("member", "snap", "db")
	etcdWAL      = filepath.Join("member", "wal")
)

func detectFile(path string) (Place, error) {
	f, err := os.Open(path)
	if err != nil {
		return Place{}, err
	}
	defer f.Close()
	head := make([]byte, 16)
	if _, err := io.ReadFull(f, head); err == nil && bytes.Equal(head, []byte("SQLite format 3\x00")) {
		if filepath.Base(path) == filepath.Base(keelsonFile) {
			return Place{}, noPlace("%s belongs to a Keelson: name its data directory", path)
		}
		return Place{Kind: Kine, Dialect: kine.SQLite, Where: path}, nil
	}
	return Place{Kind: Snapshot, Where: path}, nil
}

// String names the place, without passwords.
func (p Place) String() string {
	switch p.Kind {
	case Endpoint:
		return p.Where
	case EtcdDir:
		return "the etcd data directory " + p.Where
	case Snapshot:
		return "the etcd snapshot " + p.Where
	case KeelsonDir:
		return "the Keelson data directory " + p.Where
	case Datastore:
		return "the Keelson log in " + kine.DescribeURL(p.Where)
	case Kine:
		if p.Dialect == kine.SQLite {
			return "the kine database " + p.Where
		}
		return "the kine table in " + kine.Describe(p.Dialect, p.Where)
	}
	return "nowhere"
}

// Database tells whether the place is a server of a database, which may ask for a password.
func (p Place) Database() bool {
	return p.Kind == Datastore || p.Kind == Kine && p.Dialect != kine.SQLite
}

// source gives what kine's driver takes, with the password that is in a file.
func (p Place) source() (string, error) {
	if p.PasswordFile == "" {
		return p.Where, nil
	}
	password, err := os.ReadFile(p.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read the password of %v: %w", p, err)
	}
	return kine.WithPassword(p.Dialect, p.Where, strings.TrimRight(string(password), "\r\n"))
}
