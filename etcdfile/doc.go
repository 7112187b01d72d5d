// Package etcdfile reads and writes etcd's database file: what a member keeps as member/snap/db, and what a snapshot is.
//
// It knows that file and nothing of a server: no log, no index, no network. Rows go in and come out as etcd's key
// bucket holds them, one for each change that a compaction has kept, and [Meta] is all the rest.
//
// # The file
//
// It is a bbolt database. Of its buckets key has the history, a row for each change:
//
//	main revision, 8 bytes | _ | sub, 8 bytes | t if it is a tombstone   →   mvccpb.KeyValue
//
// and the others have the leases, alarms, members, users and roles, and in meta what belongs to the whole. A snapshot
// has a sha256 behind the database, which is a multiple of 512 bytes long; so the length of a file tells whether there is one.
//
// etcdutl snapshot restore --bump-revision raises the revision with a row that has no bytes, a bump marker, and schedules a
// compaction at it. Such a row is the version of no key: etcd keeps it, by the rules for the empty key, and never shows it.
//
// # Writing
//
// A [Writer] uses bbolt. Rows come in ascending order and go into the file in batches, so memory is bounded whatever
// the size. The bucket meta comes last and with a sync before it: what a process or a power failure has left unfinished
// has no such bucket, and is refused by etcd and by [Open].
//
// # Reading
//
// bbolt trusts its file: an altered one may make it panic, fault or recurse without end. So [Open] reads pages by itself,
// through ReadAt, with every offset, length and reference checked, each page once, and takes no more memory than it says, whatever a page says of itself. It goes through the whole file before
// it returns. Then what was opened is sound, and rows are as etcd would have them after a start: etcd finishes a
// compaction that was scheduled before it serves, so [File.Rows] leaves out what that will free.
//
// What no sha256 covers can be altered unseen: bbolt has no checksums but those of its two meta pages. Both of these have to be
// valid here. bbolt would go on with one, and be in a state that is one transaction older.
//
// The file is never written to. While an etcd has it open, Open refuses it.
//
// # Concurrency
//
// A Writer and a [Stream] belong to one goroutine. A File may be used by any number.
package etcdfile
