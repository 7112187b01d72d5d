// Package etcd runs etcd's own tests/common on a server under test.
//
// The tests are etcd's, compiled with the build tag e2e from a copy of the
// module in the cache, and start the server as "etcd" beside etcdctl and etcdutl.
// TestCluster runs them as they are: clusters have three members where a test
// does not choose, and TLS between them where it says so. TestOne takes less
// time: one number is changed for the build, the size of a cluster that a test
// does not choose, so that what one member does can be tested alone.
//
// RUN.md says which tests each of the two runs and LEFT_OUT.md which it does not,
// each with its reason. A test of upstream's that is in neither fails the run, and
// so does one that skips itself: nothing is left out in silence when upstream is updated.
package etcd
