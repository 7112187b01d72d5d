// Package wal is the log of a Raft member on disk, and the raft.Storage that go.etcd.io/raft/v3 reads.
//
// It knows nothing of what the entries say, nor of the state machine: a snapshot is a small marker that somebody else
// can make good.
//
// # On disk
//
// A log is a directory of segments, numbered without gaps. A segment begins with a file header (magic, version, CRC, salt,
// its number, the sequence number of its first frame, the length it was born with); frames follow, each at a multiple of 8 bytes. A frame has a header of
// 24 bytes (magic, CRC, length, how many frames before it were not known to be on disk, sequence number) and records: an entry, the hard state, a
// snapshot, a mark (what is compacted, and the first segment that is needed), the identity. The CRC (Castagnoli) covers all of
// the frame and the segment's salt, from which the magic is derived too: so bytes that a client chose, or that were left from another segment, are
// never taken for a frame.
//
// # Invariants
//
// W1. One call writes one frame, and a frame counts whole or not at all. Sequence numbers rise by one from frame to frame, over all segments.
//
// W2. A frame is written when the ones before it are written. Save with sync returns when it and all before it were synced, by an fsync that succeeded, with
// none that failed since they were written. Each frame tells which ones before it were known to be on disk (proven).
//
// W3. Of a call that failed nothing is in the log and nothing will be, or the WAL is broken: it writes no more
// until it is opened again, and what became of the call is only then decided.
//
// W4. What is not proven is written anew before it is relied on: after a failed fsync, and at Open, since a failed fsync of the process
// before leaves pages that can be read, count as clean and are not on disk.
//
// W5. Frames are never written where a frame may have been before that was given up: after a failure, and after
// Open, the next frame goes into a new segment. Of a segment that has a successor, just the frames up to the successor's first sequence number count.
//
// W6. A segment is whole before it has its name: header, a frame with the state as it is then (identity, hard state, snapshot, mark), and the frame of the
// call that made it, all synced; the segment before it was synced first. It counts when the directory was synced; if that fails, it must
// be gone, durably, before anything else is written.
//
// W7. The segments from the mark's first one to the last are all there and all frames in them are valid, but for the end of the last: there what
// is not proven may be torn. An invalid frame is torn if it is in the last segment, behind what that was born with, and no valid frame behind it says that it was
// on disk. Everything else is damage and an error: never a shorter log. (A damaged frame that nothing proves, as the very last one, cannot be told from a torn one; nor is the last segment missed if somebody deletes it.)
//
// W8. Segments are deleted when a mark that does not need them is on disk. Segments before the mark's are garbage, whatever they hold.
//
// W9. compacted ≤ snapshot ≤ commit ≤ last, at every frame's end: raft can start from each.
//
// W10. A log's directory has its name only when it is whole. When one takes another's place, the old one is moved away (.old), durably, then the new one gets
// the name, durably, then the old one is deleted. Without a log by its name, the one that was moved away is the log.
//
// # Failures of the operating system that are taken into account
//
// Writes that are not synced are on disk or not by sectors of 512 bytes, in any combination; directory operations that are not
// synced are done or not, each whole. After a failed fsync the data that it was for counts as clean: it is on disk or not, and may read
// as either. Metadata (a file's length, a directory) is different: a file system that cannot write it stops, so an fsync after a failed one speaks for it.
//
// # Concurrency
//
// One process has the log, and opens it once; the caller sees to that. All methods of a WAL may be called at any time. Calls that write come one after the other (writing);
// reading does not wait for the disk's writing: the state has a lock of its own (mu), which is held to publish what was written,
// and segments that are read stay open until then.
package wal
