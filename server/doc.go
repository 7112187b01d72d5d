// Package server is one node: it puts the driver, the store, the watch hub, the
// lessor, the compactor and the API together, and starts and stops them.
//
// # Members that differ
//
// The leader of a cluster compares what the members have applied, every ten seconds: the hash of all commands up to positions that they share. It compares what
// their databases hold, by etcd's HashKV, as --corrupt-check-time says, and after compactions if the feature gate CompactHashCheck is on. It raises the
// CORRUPT alarm for a member that differs from a majority of the voters, and for member 0, which means all, if there is no majority. With
// InitialCorruptCheck a member does not start whose database differs from another's.
//
// Other than in etcd, where any CORRUPT alarm makes all members refuse changes, it stops the members that it names alone: they refuse reads and watches too,
// and do not lead. So the leader is judged like any other: etcd's periodic check holds it to be right.
package server
