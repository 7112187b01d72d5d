// Package sqllog is the store: one log, one index over it, one loop that commits.
//
// A write goes one way. The commit loop collects the requests that wait,
// evaluates them as one batch on the index, appends the batch through the
// driver, publishes the new index, hands the events to the watch hub, and answers. There is no timer
// in it: an idle server commits one request at once, a loaded one commits as
// many as have come in while the last batch was being synced.
//
// # Invariants
//
//	I1   The index changes only in the commit loop, and only by what is in the log.
//	I8   Each commit is published once, whole, in order.
//	I10  An answer implies durability, and was true at some moment between
//	     request and answer: it follows the append of its batch or, where nothing
//	     was appended, a ReadIndex that found the index current.
//
// The header's revision moves after the index has: no reader sees what is not durable.
//
// # Values
//
// The index knows positions; values are fetched from the log when an answer
// needs them, off the loop, through a bounded cache. Housekeeping frees entries of the
// log only after every read that began before has ended ([Store.Prune]), so that a value is there when
// it is fetched; should it be gone all the same, a read of the current
// revision begins anew and one of an older revision is answered ErrCompacted.
//
// # The past
//
// With Options.Retain the scrub waits (retain.go). [Store.Changes] and [Store.Rewound] tell what the log has of the past, compacted
// or not, and [Store.Extent] from which revision on that is everything (changes.go, rewound.go).
//
// # Concurrency
//
// Store.Run is called once and is the only goroutine that appends. All other
// methods may be called by any number of goroutines.
package sqllog
