// Package verify walks a whole log for the invariants that a log can show, and says what it finds. An
// operator runs it as keelson check; tests run it after whatever they did.
//
// It reads the log twice: once as a server does that loads its index, once with the values and by
// rules of its own, and compares what came of it.
//
// # What is checked
//
//	storage  What the driver's own check finds: pages, rows, whole batches (I5).
//	I1   Positions ascend, without a hole above the scrub mark; the end is where the bounds say.
//	I2   Main revisions rise by 1, none skipped or reused; at or below the compact revision
//	     they ascend, since what lay between was scrubbed.
//	I3   Subs count from 0 in a revision; at or below the compact revision they ascend.
//	I4   create_revision and version follow the key's generation; what is deleted lived.
//	I6   The index that a server loads has the keys, versions and revisions that the log has.
//	I7   Every live key's value is there, and as long as recorded; compact revisions rise.
//	I8   Keys are attached to leases that exist, and leases hold the keys attached to them.
//	I11  Auth revisions ascend; the index is at the newest one, and has the users and roles that the
//	     log has. Users have roles that exist (but for root, which needs no role), each once, in order.
//	I12  No entry is of a member that was removed before; the index has the members that the log has, all
//	     of one cluster, one founder at most, one that votes at least, no two with a peer URL in common.
//
// It knows only drivers.Log and what entries mean. Nothing is written. One Walk uses one
// goroutine; several may run on one log, also while it is served, up to the end that was there at the beginning.
package verify
