package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options says which log and how it is reached. Only URL is required.
type Options struct {
	// URL names the database, as libpq does: postgres://user@host:port/database?parameter=value, or key=value
	// pairs. All of libpq's usual parameters are understood (sslmode, sslcert, sslkey, sslrootcert, passfile, service,
	// target_session_attrs, connect_timeout, application_name, several hosts, …), and the PG* environment
	// variables where it leaves something out.
	URL string

	// PasswordFile is a file that holds the password and nothing else, but for a final end of line. It is read
	// anew for every connection, so a password may be changed without a restart. It goes before a password in URL.
	PasswordFile string

	// Name is the schema that holds the log, made if it does not exist; each log in a database has its own. Default: keelson.
	Name string

	// ReadOnly opens the log for inspection: nothing is made, migrated or written, every method that would write
	// returns ErrReadOnly, and all that is read is read as it was when the log was opened. Default: false.
	ReadOnly bool

	// Connections is the most connections that are open at a time, at least 4. Default: 8.
	Connections int

	// Patience is how long a database that cannot be reached, that is starting, or that refuses for the moment, is
	// tried again before a call fails; it counts from the first failure of an outage. Default: 5 s.
	Patience time.Duration

	// Answer is how long the database may take for one answer. Then the connection is given up. Default: 15 s.
	Answer time.Duration

	// Poll is the time after which the log's end is looked at without any signal: PollListening where the database sends
	// signals, as a safety net, and PollAlone where it cannot. Defaults: 1 s and 50 ms.
	PollListening, PollAlone time.Duration

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger

	// dial connects instead of the package's own way; tests set it.
	dial pgconn.DialFunc
}

func (o Options) withDefaults() Options {
	o.Name = cmp.Or(o.Name, "keelson")
	o.Connections = cmp.Or(o.Connections, 8)
	o.Patience = cmp.Or(o.Patience, 5*time.Second)
	o.Answer = cmp.Or(o.Answer, 15*time.Second)
	o.PollListening = cmp.Or(o.PollListening, time.Second)
	o.PollAlone = cmp.Or(o.PollAlone, 50*time.Millisecond)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return o
}

// name keeps schemas, and the channel that is named after one, within what Postgres takes.
var name = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,47}$`)

// ValidName tells whether a log may have this name.
func ValidName(s string) bool { return name.MatchString(s) && !strings.HasPrefix(s, "pg_") }

func (o Options) validate() error {
	switch {
	case o.URL == "":
		return errors.New("the database's URL is missing")
	case !ValidName(o.Name):
		return fmt.Errorf("%q cannot be a log's name: 1 to 48 small letters, digits, _ and -, no digit or - first, no pg_ first", o.Name)
	case o.Connections < 4:
		return fmt.Errorf("%d connections are too few: at least 4", o.Connections)
	case o.Patience < 0 || o.Answer < 0 || o.PollListening < 0 || o.PollAlone < 0:
		return errors.New("a duration is negative")
	}
	return nil
}

// readsAtOnce is how many connections reads of values and history may use: two are for appends and the
// question of ReadIndex, two for housekeeping, one listens.
func (o Options) readsAtOnce() int { return max(o.Connections-5, 1) }

// idleTime is how long a connection that is not used stays.
const idleTime = 5 * time.Minute

// poolConfig reads the URL. Errors do not show its password.
func (o Options) poolConfig() (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		// What is wrong with it may be what makes a password in it show.
		return nil, errors.New("cannot parse the database's URL, which is not shown since a password may be in it: it is postgres://user@host:port/database?parameter=value, or key=value pairs")
	}
	c.MaxConns = int32(o.Connections - 1) // one listens, beside the pool
	c.MinConns, c.MinIdleConns = 0, 0
	c.MaxConnIdleTime = idleTime
	cc := c.ConnConfig
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = 5 * time.Second
	}
	if cc.RuntimeParams["application_name"] == "" {
		cc.RuntimeParams["application_name"] = "keelson"
	}
	// All statements go through pgconn, which prepares none by itself; so does the pool's ping.
	cc.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	cc.DialFunc = dial
	return c, nil
}

// errPassword: the file with the password cannot be read.
var errPassword = errors.New("read the database's password")

// password reads the file anew.
func (o Options) password() (string, error) {
	b, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errPassword, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
