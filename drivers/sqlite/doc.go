// Package sqlite is a log in an SQLite file: the driver of a single server.
//
// DESIGN.md in this directory has the reasons, the crash cases one by one and the measurements.
//
// # Invariants
//
// S1. One process has the file (flock, and SQLite's own exclusive lock), and in it one
// Log: so the end of the log is known without asking.
//
// S2. WAL mode with synchronous=FULL: a COMMIT returns after its fsync.
//
// S3. The last row of each batch, and no other, has a batch column. The log's last
// row is such a row.
//
// S4. A file at a log's path is whole from the moment it is there, and says in its header
// that it is Keelson's.
//
// S5. Of a transaction whose COMMIT failed either its changes are to be seen, or nothing of it
// is left that a recovery could find, before the next one begins.
//
// S6. What is copied into the database counts as copied when an fsync has
// succeeded since, and none has failed in between that was not made good (mend).
//
// S7. The mark in Bounds is never below a hole that a reader can see. A row missing above it
// is damage, never an answer.
//
// S8. A log's name in its directory is durable, and an older file's write-ahead log durably
// gone, before a write-ahead log lies beside it.
//
// S9. No read transaction is held while a callback runs or anything else is
// waited for, so the write-ahead log can always begin anew.
//
// What closes a batch may have a mark beside it (AppendAll, LastMark), which means nothing here. Rows, Copy
// and Swap are for who keeps equal logs on several servers.
//
// # Concurrency
//
// One connection writes; whoever holds the token uses it: appends, scrubs and slices of
// vacuuming in turn, first come first served. Options.Readers connections read.
// One connection checkpoints. Locks are taken in the order token, gate, checkpointer.mu;
// a reader is taken before the gate and never while the token is held.
package sqlite
