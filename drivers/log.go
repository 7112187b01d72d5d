package drivers

import (
	"context"
	"errors"
	"time"
)

// BatchID tells batches apart, also across servers and histories: 16 random bytes.
type BatchID [16]byte

// End is where a log ends: the position of the last entry and the id of the
// batch which that entry closes. The zero End is the end of an empty log.
type End struct {
	Position int64
	Batch    BatchID
}

// Entry is one record of the log.
type Entry struct {
	// Position is assigned by Append and ignored on its input.
	Position int64
	// Kind says how Meta is to be read; drivers store it and look no further.
	Kind uint8
	// Meta is the small part of an entry, read when a server loads. It is
	// never empty.
	Meta []byte
	// Value is the part that is fetched only when somebody asks for it. It
	// is nil in entries read without values; nil and empty are stored alike, and
	// either may come back for them.
	Value []byte
	// Written is Batch.Time, in milliseconds since 1970, on the entry that closes a batch and in what a scan with
	// Times gives alone; 0 elsewhere. Append ignores it.
	Written int64
}

// Batch is what one append adds: all of its entries or none.
type Batch struct {
	ID BatchID
	// Time is the wall-clock time at which the writer made the batch; it is
	// kept at a resolution of milliseconds and decides nothing.
	Time time.Time
	// Server is the member id of the server that wrote the batch.
	Server uint64
	// Term is the term of its lead in which the writer decided on the batch, where one server leads the others: in another one the
	// batch is refused, with ErrNotLeader. 0: it may come in any. It is not kept.
	Term    uint64
	Entries []Entry
}

// Bounds describes the extent of a log.
type Bounds struct {
	End End
	// Scrubbed is the highest position that was ever scrubbed: holes lie at
	// or below it, and above it every position is present.
	Scrubbed int64
}

// ScanOptions selects what Scan reads.
type ScanOptions struct {
	// After is the position before the first one wanted.
	After int64
	// UpTo is the last position wanted; 0 means the end of the log as it is
	// when the scan starts.
	UpTo int64
	// Values asks for the entries' values too. Without it a scan must
	// not read them from disk where the database allows that.
	Values bool
	// Times asks for Entry.Written.
	Times bool
}

// Log is a compare-and-append log in a database.
type Log interface {
	// Append adds the batch at the positions after.Position+1, … if after is
	// still the end of the log; then the new end is (after.Position +
	// len(Entries), ID). The batch must not be empty. On return the batch is durable.
	//
	// Errors: ErrConflict, ErrUncertain, ErrUnresolved, ErrNoSpace, ErrReadOnly, ErrCorrupt,
	// ErrClosed, a context's error if nothing was begun; anything else is a
	// storage error that left nothing behind. See rule D4.
	Append(ctx context.Context, after End, batch *Batch) error

	// ReadIndex gives the bounds of the log at some moment after the call began:
	// they are no older than any append, by whatever server, that was acknowledged before
	// the call. Many callers at once share one question to the database. Its success also settles
	// an ErrUncertain before it: from then on the log holds what was in doubt for good, or never will.
	ReadIndex(ctx context.Context) (Bounds, error)

	// Scan gives every entry present in (After, UpTo] to fn, in order. It
	// holds no lock and no snapshot for long, so that neither writers nor the
	// database's own housekeeping wait for a slow fn; memory is bounded whatever the length.
	// Entries that Scrub removes meanwhile may or may not be seen. fn gets slices of entries which are valid
	// during the call; the bytes of Meta and Value are fn's to keep.
	// An error of fn ends the scan and is returned.
	Scan(ctx context.Context, opts ScanOptions, fn func([]Entry) error) error

	// Follow gives every batch after the given end to fn, whole, in order and once,
	// with values, and then waits for more until ctx ends. It
	// wakes by a signal of the database where it has one.
	//
	// Errors: ErrScrubbed if after lies below the scrubbed mark, so that
	// entries may be missing, or at the mark when the entry that closed after.Batch is gone, so that nothing
	// can be compared; also later, when the mark has come to where a follower is, or passed it: load anew. ErrDiverged if
	// the log's entry at after.Position closes no batch or another one than after.Batch, or the log ends before it. fn's
	// error, the context's error, ErrClosed, a storage error.
	Follow(ctx context.Context, after End, fn func(*Batch) error) error

	// Values fetches the values at the given positions, which may come in any order,
	// into dst (len(dst) == len(positions)). The bytes belong to the
	// caller; an empty value may be nil. ErrScrubbed if any of them is not in the log, be it that it was
	// scrubbed or that it was never written; dst is then undefined.
	Values(ctx context.Context, positions []int64, dst [][]byte) error

	// Scrub removes the entries at the given positions (ascending), durably
	// and atomically for each call; positions already gone are passed over. Callers keep calls
	// short (some thousand positions) since appends wait meanwhile. The log's
	// last position, and any after it, is refused with an error, and nothing is removed.
	//
	// Errors: as Append's, but for ErrConflict. After ErrUncertain some call's entries, all of them or none,
	// may be gone; scrubbing them again does no harm.
	Scrub(ctx context.Context, positions []int64) error
}

// Sizer is a Log that knows its size on disk.
type Sizer interface {
	// Size gives the bytes that the database takes on disk, and how many of those are in use
	// rather than free for reuse. It is cheap: no scan.
	Size(ctx context.Context) (total, inUse int64, err error)
}

// Estimator is a Sizer that cannot tell what of its size is free: what is in use is as much as all of it, as a rule.
type Estimator interface {
	// Needs estimates what a log of so many entries, whose keys and values have so many bytes, takes on disk if it has no more free space than its database leaves.
	Needs(entries, bytes int64) int64
}

// Defragmenter is a Log that can give free space back to the file system.
type Defragmenter interface {
	// Defragment gives back free space while reads and appends go on. It returns when the file is as
	// small as it will get, or ctx ends (what was given back stays so).
	Defragment(ctx context.Context) error
}

// Checker is a Log that can examine its own storage.
type Checker interface {
	// Check examines the storage below the log (pages, indexes, rules D2 and D5) and
	// reports each finding as a line of text; no findings means sound.
	Check(ctx context.Context, report func(finding string)) error
}

// The errors of drivers. They come wrapped with the operation and, where a
// person can do something about it, with what to do; compare with errors.Is.
var (
	// ErrConflict: the log's end was not the one named. Nothing was appended.
	ErrConflict = errors.New("the end of the log has moved")
	// ErrUncertain: the outcome of an append, or of a scrub, is unknown (rule D4). After it,
	// the log refuses both, with ErrUnresolved, until ReadIndex has succeeded.
	ErrUncertain = errors.New("the outcome of the write is unknown")
	// ErrUnresolved: refused, and certainly not done, since the outcome of an earlier write is unknown.
	ErrUnresolved = errors.New("an earlier write's outcome is unknown: call ReadIndex")
	// ErrScrubbed: entries asked for were removed after a compaction.
	ErrScrubbed = errors.New("entries have been scrubbed")
	// ErrDiverged: this log is not a continuation of the one that was seen before.
	ErrDiverged = errors.New("the log has another history")
	// ErrEpoch: the database may have lost scrubs since the epoch that was named; nothing was scrubbed.
	ErrEpoch = errors.New("the database may have lost what was scrubbed")
	// ErrNotLeader: another server is to append, and this one does not, or not in the term of the batch. Nothing was appended.
	ErrNotLeader = errors.New("this server does not lead")
	// ErrNoQuorum: too few servers answered in time. What was asked for was not begun, or changes nothing.
	ErrNoQuorum = errors.New("no majority of the servers answers")
	// ErrNoLeader: this server stands still (Replica.Halted), and does not hear who leads. What was asked for was not begun, or changes nothing.
	ErrNoLeader = errors.New("this server does not hear of a leader")
	// ErrNoSpace: the disk or a quota of the database is full; nothing was
	// appended. It may work again later, without a restart.
	ErrNoSpace = errors.New("no space left for the log")
	// ErrReadOnly: the database cannot be written.
	ErrReadOnly = errors.New("the log is read-only")
	// ErrCorrupt: the database is damaged; nothing was changed.
	ErrCorrupt = errors.New("the log is damaged")
	// ErrLocked: another process has the database open for itself.
	ErrLocked = errors.New("the log is in use by another process")
	// ErrForeign: the database is not one of Keelson's.
	ErrForeign = errors.New("not a Keelson log")
	// ErrNewer: the database was written by a newer Keelson.
	ErrNewer = errors.New("the log has a newer schema")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("the log is closed")
)
