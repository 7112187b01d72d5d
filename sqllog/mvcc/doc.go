// Package mvcc holds etcd's data model: the index over the log, what requests mean, and how both are written down.
//
// Everything in it is pure. There is no I/O, no clock, no randomness, no
// goroutine and no lock: what is nondeterministic comes in with a request, values
// are read through a function that is passed in. It knows nothing of SQL or gRPC
// (requests are etcd's protobuf messages, as data).
//
// # Data
//
// An [Index] is a snapshot of the state at one end of the log: for each key its
// versions since the last compaction, the leases, the alarms, the members, the users and roles. It
// never changes; a [Builder] makes the next one and shares what did not change. [Evaluate] turns
// requests into entries of the log and results; [Builder.Load] takes entries that come from the log.
// Both change the index by the same functions.
//
// # Invariants
//
//	I2  Main revisions rise by 1 per request that changes a key, from 2 on.
//	I3  The subs of a revision count from 0.
//	I4  A key's create_revision is the revision of its generation's first put,
//	    its version counts the puts since.
//	I6  A read at revision r sees exactly r, for compact revision <= r <= current.
//	I7  Scrubbing, in the log and in the index, is invisible.
//	I9  Evaluation is a function of its arguments.
//	I11 The auth revision rises by 1 per request that changes users or roles, from 2
//	    on. Every entry of a user or role carries it. The newest of them is never
//	    garbage, not even a removal of what is gone: a log that is loaded, however
//	    much of it was scrubbed, is at the auth revision of its newest such entry.
//	I12 A member that was removed never comes back: the entry that says so stays. All
//	    members are of one cluster, one of them votes, no two have a peer URL in common,
//	    and the log was founded for one at most.
//
// # Concurrency
//
// An Index may be read by any number of goroutines. A Builder belongs to one.
package mvcc
