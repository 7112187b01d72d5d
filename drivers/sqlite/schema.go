package sqlite

import (
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// applicationID stands in the header of every database of Keelson's: "Keel".
const applicationID = 0x4b65656c

// migrations lead from each schema to the next, forward only: migrations[n]
// takes a database from user_version n to n+1. A released one is never
// changed. The first makes the tables.
//
// log: one row for each entry, in order of position; the rowid is the
// position, so there is no index beside the table. batch stands on the last row of each
// batch alone: id (16 bytes), time (milliseconds since 1970, 8 bytes big-endian), server
// (8 bytes big-endian), and from schema 2 on, if the batch has one, a mark (24 bytes). So
// the last row says where the log ends, and a commit need not write a page for that.
// The value comes last: when it is large SQLite puts it, or most of it, on pages that a
// scan without values does not touch.
//
// head: one row, changed only by scrubbing. changes counts how often, so that
// it can be told what became of a scrub whose COMMIT failed.
var migrations = [...]string{
	`CREATE TABLE log (
	position INTEGER PRIMARY KEY,
	kind INTEGER NOT NULL,
	batch BLOB,
	meta BLOB NOT NULL,
	value BLOB NOT NULL
) STRICT;
CREATE TABLE head (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	scrubbed INTEGER NOT NULL,
	changes INTEGER NOT NULL
) STRICT;
INSERT INTO head (id, scrubbed, changes) VALUES (1, 0, 0)`,
	// Schema 2 says that batch may have a mark, for which an older Keelson would take
	// the log for damaged. The tables are as they were.
	``,
}

// schemaVersion is what this code writes. It reads a log from readableVersion on as it is.
const (
	schemaVersion   = int64(len(migrations))
	readableVersion = 1
)

// migrate brings a database to the schema of this code, in one transaction.
func migrate(c *conn) error {
	version, err := c.getInt("PRAGMA user_version")
	if err != nil {
		return err
	}
	switch {
	case version > schemaVersion:
		return fmt.Errorf("%w: %d, and this Keelson knows %d: run the newer Keelson that wrote it, or one newer still", drivers.ErrNewer, version, schemaVersion)
	case version == schemaVersion:
		return nil
	case version > 0:
		// What is damaged is left as it is.
		if _, err := readEnd(c); err != nil {
			return err
		}
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, m := range migrations[version:] {
		if err := c.exec(m); err != nil {
			return fmt.Errorf("migration to schema %d: %w", schemaVersion, err)
		}
	}
	if err := c.exec(fmt.Sprintf("PRAGMA application_id=%d; PRAGMA user_version=%d", applicationID, schemaVersion)); err != nil {
		return err
	}
	return c.exec("COMMIT")
}

// checkSchema refuses a database that this code cannot read without a migration.
func checkSchema(c *conn) error {
	version, err := c.getInt("PRAGMA user_version")
	if err != nil {
		return err
	}
	switch {
	case version > schemaVersion:
		return fmt.Errorf("%w: %d, and this Keelson knows %d: use the newer Keelson that wrote it", drivers.ErrNewer, version, schemaVersion)
	case version < readableVersion:
		return fmt.Errorf("the log has schema %d and this Keelson reads %d and later: start the server once, which migrates it", version, readableVersion)
	}
	return nil
}
