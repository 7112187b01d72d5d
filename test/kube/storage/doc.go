// Package storage runs a storage server, one that speaks etcd's API and is started with etcd's command
// line, as a process: etcd itself, or Keelson. The tests take either, so that each is proven on etcd.
//
// The environment variable STORAGE_SERVER names the program; without it, it is .build/bin/keelson under
// the repository's root.
package storage
