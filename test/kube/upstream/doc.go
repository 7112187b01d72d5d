// Package upstream runs test files of k8s.io/apiserver as they are, those of its etcd3 store, of the watch
// cache before it and of the factory that makes both, with one file replaced: the one that starts an etcd
// inside the test's process. In its place stands package testserver, which starts the storage server.
//
// Package store calls upstream's exported test functions; the tests here also cover what upstream tests
// from inside: the pages and streams a watch begins with, compaction by two servers, the metrics' keys.
package upstream
