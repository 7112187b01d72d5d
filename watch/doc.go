// Package watch is the hub: the only publisher of events.
//
// The commit loop hands it every commit, in order, through [Hub.Publish]. A watcher is
// synced when it has been given everything up to the hub's revision; synced watchers are found by key in
// an interval tree and get their events at once. A watcher that starts in the past, or that fell behind
// because its client does not read, is lagging: [Hub.Run] catches it up, from a ring of recent events or
// from the log, as far as its stream has room.
//
// A [Stream] is what one client reads. It holds, per watcher, the events that are due; the
// client's own goroutine takes them with [Stream.Next]. Nobody ever waits for
// a client: what it does not take is bounded (when the bound is reached its watchers lag, and
// resume from the log when it reads again).
//
// # Guarantees
//
// They are etcd's (https://etcd.io/docs/latest/learning/api_guarantees/#watch-apis). Ordered and unique: events come to a watcher
// in order of revision and sub, each once. Reliable: none is left out. Atomic:
// the events of a revision are never split (unless the client asked for
// fragments, which say so). Resumable: from any revision not compacted. Bookmarkable: a
// progress response at revision r follows every event up to r.
//
// # Invariants
//
//	W1  A watcher's due events, and those to come, are in order and begin at its next revision.
//	W2  A synced watcher has all events up to Hub.rev, either taken or due.
//	W3  Hub.rev moves after the events up to it are due: who loads it and then
//	    takes what is due on a stream has everything up to it from every synced watcher.
//	W4  Events are handed over by whole revisions.
//
// # Concurrency
//
// Hub.mu comes before Stream.mu. Neither is held during I/O.
package watch
