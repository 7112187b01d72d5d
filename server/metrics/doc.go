// Package metrics counts what a server does and shows it under the names of etcd's metrics, so that
// etcd's dashboards and alerts work. The test's table lists every metric of etcd's: those served, and those left
// out with the reason.
//
// # Cost
//
// A request pays for a handful of atomic additions and two map lookups (its method, its client's version); no label
// is formatted and no lock is taken. Everything that the store, the hub or the log
// know anyway is read when somebody asks. Bytes are counted by connection: one addition per read or write of a
// socket, of which there are fewer under load than messages, so they include HTTP/2's framing, which etcd's
// figure does not. Between members it is the same (server/peer).
//
// # Labels
//
// Label values come from closed sets: methods from the service descriptions, codes from gRPC, and at most
// 16 client versions; whatever else a client says it is counts as unknown. Members are told apart by their ids, at most 64 of them.
//
// # Whose calls
//
// A call is counted where its client has made it, also if the leader answers it: there it counts only what the leader alone decides (Forwarded).
//
// # Concurrency
//
// All methods may be called by any number of goroutines. Register is called once.
package metrics
