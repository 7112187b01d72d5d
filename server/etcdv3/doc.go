// Package etcdv3 is etcd's gRPC API in front of a store: it checks a request, calls, fills the
// header, and turns errors into etcd's. It decides nothing and knows nothing of SQL.
//
// What etcd checks before a request reaches its log is checked here, in the same
// order and with the same errors; what etcd decides when it applies a request
// is decided by package mvcc.
package etcdv3
