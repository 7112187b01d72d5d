package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// code gives the SQLSTATE of an error of the database's, or "".
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// codes of Postgres that are judged one by one.
const (
	codeReadOnlyTransaction = "25006"
	codeUniqueViolation     = "23505"
	codeCompletionUnknown   = "40003"
	codeNoStatement         = "26000"
	codeStatementExists     = "42P05"
	codeProtocolViolation   = "08P01"
	codeTransactionUnknown  = "08007"
	codeLockNotAvailable    = "55P03"
	codeUndefinedFunction   = "42883"
	codeNotSupported        = "0A000"
)

// passes tells whether what failed may succeed soon: the database is away, is starting, is full of connections, has chosen this
// transaction to be tried again, or was told to stop it. What was refused for good does not pass.
func passes(err error) bool {
	switch c := code(err); {
	case c == "":
		return err != nil && !judged(err)
	case strings.HasPrefix(c, "08"), // connection
		strings.HasPrefix(c, "40"), // serialization failure, deadlock
		c == "53200", c == "53300", // memory, connections
		c == "55P03", c == "55006", // a lock, an object in use
		strings.HasPrefix(c, "57"), // cancelled, shutting down, starting
		c == "25P03", c == "25P04", // idle in transaction, transaction timeouts
		c == codeNoStatement, c == codeStatementExists, // sessions are shared after all
		c == codeReadOnlyTransaction: // a primary that has become a standby
		return true
	}
	return false
}

// errRefused marks what this driver refuses itself.
var errRefused = errors.New("refused")

// judged tells errors that are no failure of a connection: contexts', this package's own, and those of options.
func judged(err error) bool {
	for _, e := range [...]error{
		context.Canceled, errRefused, errNoRow, errFence, errPassword,
		drivers.ErrConflict, drivers.ErrUncertain, drivers.ErrUnresolved, drivers.ErrScrubbed, drivers.ErrDiverged, drivers.ErrEpoch, drivers.ErrNoSpace,
		drivers.ErrReadOnly, drivers.ErrCorrupt, drivers.ErrForeign, drivers.ErrNewer, drivers.ErrClosed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var parse *pgconn.ParseConfigError
	return errors.As(err, &parse)
}

// aborted tells whether an error proves that the transaction it was given for is not committed: the database said so
// itself, with the connection intact. (What pgconn calls safe to retry is not: it says so of a connection that broke
// after everything was sent, when the results of a batch are closed.)
func aborted(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.SeverityUnlocalized == "ERROR" && e.Code != codeCompletionUnknown && e.Code != codeTransactionUnknown
}

// classify puts the contract's sentinel and, where there is something to do, what to do around an error.
func classify(err error) error {
	if err == nil {
		return nil
	}
	switch c := code(err); {
	case errors.Is(err, pgconn.ErrReadOnlyConnection), c == codeReadOnlyTransaction:
		return fmt.Errorf("%w: the database server is a standby or read-only: name the primary, or several hosts with target_session_attrs=read-write: %w", drivers.ErrReadOnly, err)
	case c == "53100":
		return fmt.Errorf("%w: make room on the database server, no restart is needed: %w", drivers.ErrNoSpace, err)
	case c == codeInsufficientPrivilege:
		return fmt.Errorf("%w: the database role lacks a right: it needs CREATE on the database, or the schema as its own: %w", drivers.ErrReadOnly, err)
	case strings.HasPrefix(c, "XX0"):
		return fmt.Errorf("%w: the database says that its files are damaged: see its log: %w", drivers.ErrCorrupt, err)
	case strings.HasPrefix(c, "28"):
		return fmt.Errorf("the database refuses the user or password: %w", err)
	case c == "3D000":
		return fmt.Errorf("there is no such database, make it with createdb: %w", err)
	case c == "53300":
		return fmt.Errorf("the database has no connection left: raise its max_connections, or put pgbouncer before it: %w", err)
	}
	return err
}
