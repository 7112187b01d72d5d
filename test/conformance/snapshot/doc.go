// Package snapshot tests what etcdfile writes and reads against real etcd, etcdctl and etcdutl.
//
// A file that etcdfile has written is restored by etcdutl and served by etcd, which then has to answer as the etcd does from which
// the content came, or as the rows say: ranges at each revision, hashes, leases.
package snapshot
