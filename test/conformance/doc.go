// Package conformance tests compare servers that speak etcd's API with real etcd.
package conformance
