// Package backup keeps an operator's copies of a store: etcd's database files, as Maintenance.Snapshot gives them, in a directory or a bucket of any
// S3-compatible store, made on a schedule or one now.
//
// It knows snapshots as bytes with a size and a revision, and nothing of logs, of etcd's API or of the members of a cluster. Who makes them, and whether this
// server is the one that backs up for all, it is told.
//
// # What holds
//
//  1. A backup has its name only when it is whole and durable: whatever is broken off, by kill -9 too, leaves nothing that looks like one.
//  2. A backup counts as made when it was read back and is what was sent. One of which that was broken off stays, and counts when somebody has read it.
//  3. Only after that older ones are removed, and never the one that was just made. Only files of the cluster's own and with this package's names are.
//  4. Nothing waits for a target: not the server, neither its start nor its stop. A target that hangs, or that would take for ever, is given up, and one attempt at a time is all there ever is.
//  5. What is due is decided by what the target has, so it does not matter who asks: the server that was there before, the next leader, or one after a restart.
//
// # Time
//
// A schedule is about the wall clock, and that may jump. A [Runner] waits in short pieces and asks the clock after each. A backup whose name lies
// in the future by more than an hour counts for nothing when it is decided what is due, and as new when it is decided what is old.
//
// # Concurrency
//
// Runner.Run is called once; its other methods may be called by any number of goroutines. Targets may be used by any number.
package backup
