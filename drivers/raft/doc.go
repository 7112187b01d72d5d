// Package raft is a driver that keeps the log on several servers, each with a copy in an SQLite file of its own, by Raft (Ongaro and
// Ousterhout, "In Search of an Understandable Consensus Algorithm"). A server may also be alone: then its log is the file and nothing else, until it
// grows into the first member of a cluster.
//
// An append is a command in Raft's log: a batch, and the end of the log that its author has seen. When it is agreed on, every member's state machine compares that end
// with its own and appends the batch or does nothing: on every member alike. A batch that was decided on in a
// term of this server's lead is proposed in that one or not at all.
//
// What is committed is first in memory, in the tail, and so can be read at once. It goes to the file in the background, many batches
// in one transaction. Durable it is before that, in the Raft logs of a majority (internal/wal), which are synced before anything is acknowledged.
//
// # Invariants
//
// R1. The file is a prefix of the log, whole batches, durable. Its last row says with which entry of Raft's log it came (its mark), in the same transaction.
//
// R2. Raft's log on disk begins no later than after what the file has on disk: it is cut only behind a marker, and a marker is made only of what is in the file.
//
// R3. The author of a command has seen the end that it names, so a command comes in Raft's log after the one that made that end. So
// whatever is applied again after a start changes nothing: the end it names lies before the file's.
//
// R4. The tail follows the file without a gap, and what it has is committed.
//
// R5. Nothing that is on disk in Raft's log is told to others before it is; but for the leader's own entries, which are counted for it only when they are.
//
// R6. A copy of another member's file may be of a later state than the marker that it is installed with, never of an earlier one. It takes the file's place before Raft's
// log is cut: after a crash between the two the file is ahead, which R3 allows.
//
// R7. A scrub removes entries of this member's file alone. It never runs while the file is copied or loaded, and is refused if the file has been replaced since its
// caller has read it (Epoch).
//
// R8. Members of one cluster have begun with the same log, which their identities tell (Origin). A founder without an entry of its own is one that has never told anybody where its
// clients reach it (Unbegun). Both are for those who connect the members to see to.
//
// # Reads
//
// ReadIndex asks a majority whether it still follows this leader, once for all who wait (thesis, 6.4), and answers when what the leader had
// committed when the question came is applied here. A member that asks says in what term: with the leader of that term it may be a majority by itself, and
// then nobody else is asked. No clock is trusted, so it holds for a server that was stopped and goes on.
package raft
