// Package etcd runs etcd's own tests/common on a server under test.
//
// The tests are etcd's, compiled with the build tag e2e from a copy of the
// module in the cache, and start the server as "etcd" beside etcdctl and etcdutl. One number is
// changed for the build: the size of a cluster that a test does not choose,
// three upstream, is one, so that tests of what one member does can be run.
//
// RUN.md says which tests are run and LEFT_OUT.md which are not, each with its
// reason. A test of upstream's that is in neither fails TestCommon, so nothing
// is left out in silence when upstream is updated.
package etcd
