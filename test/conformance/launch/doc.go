// Package launch starts an etcd-like server as a process on free loopback
// ports, with a data directory of its own, and stops exactly that process.
//
// Several servers can be started as one cluster.
//
// Any binary that takes etcd's flags and logs etcd's line
// "ready to serve client requests" can be started, so real etcd and Keelson
// are the same to the callers. The package knows nothing of what is stored.
//
// A Process is used by one goroutine at a time. Start, Restart and Stop block
// until the process has answered or gone; what it wrote to its log is kept in
// a file for the failing test to show.
package launch
