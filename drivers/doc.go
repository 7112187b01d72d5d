// Package drivers is the contract between Keelson and the databases that can
// hold its log. A driver is one thing: a compare-and-append log.
//
// The log is a sequence of entries at positions 1, 2, 3, … An append names the
// end of the log that its author has seen and succeeds only if that is still
// the end, so whoever appends has seen everything before. Revisions without
// gaps, several equal servers on one database, and the rejection of stale
// writers all follow from this and need nothing else.
//
// Drivers know nothing of etcd: a kind is a number, a meta and a value are
// bytes. They must not import anything of the project but this package.
//
// # Rules that every driver keeps
//
// D1. The end of a log is the pair (position, batch id), never a number alone:
// a standby that was promoted without its primary's last commits may reuse
// positions, but never a batch id.
//
// D2. A batch is in the log whole or not at all, at contiguous positions that
// begin one after the end it was appended to.
//
// D3. Append returns nil only when the batch is durable: it survives kill -9
// and loss of power.
//
// D4. Unknown is not no. Append returns [ErrConflict] only if the batch is
// certainly not in the log and never will be; [ErrUncertain] if it may be or
// may become part of it; any other error means that it certainly is not.
//
// D5. Holes are made by Scrub alone and lie at or below [Bounds.Scrubbed]. The last
// position is never scrubbed, so the end can always be told.
//
// D6. Readers see whole batches: whatever a scan or a follower is given ends
// at a batch's last entry (or at the bound it asked for).
//
// # Concurrency
//
// All methods of a [Log] may be called from any number of goroutines at once,
// except that one Append runs at a time per Log (the commit loop is its
// only caller). Cancelling a context ends waiting and reading; an Append that
// has begun to commit is not cancelled by it.
//
// # Bytes
//
// Slices given to a driver are not changed by it and not kept after the call
// returns. Slices handed to a callback are the callee's to keep unless said
// otherwise.
package drivers
