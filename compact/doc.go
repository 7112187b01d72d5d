// Package compact decides when to compact, and paces the freeing of what compactions made
// unreachable, so that no client notices it.
//
// Compaction is two things. To compact is to move the compact revision: an entry of
// the log, from which all of etcd's semantics follow at once. To scrub is to remove what
// that freed, from the index and the log: later, in slices, and found again after a crash.
package compact
