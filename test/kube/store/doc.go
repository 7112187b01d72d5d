// Package store holds the storage tests of k8s.io/apiserver: every RunTest function of its package
// pkg/storage/testing, through etcd3.New, against a storage server that is a process of its own.
//
// Each test gets a server of its own with an empty data directory: many of them compact, and revisions
// from 1 on are part of what some check. TestEveryUpstreamFunctionIsCalled fails when upstream has a
// function that no test here calls.
package store
