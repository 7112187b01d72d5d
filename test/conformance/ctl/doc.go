// Package ctl runs the same sequence of etcdctl commands against two servers
// and compares what a user sees of them: outputs, error text and exit codes, in
// every output format.
//
// A sequence is a list of steps, [Steps]. What two correct servers cannot have in
// common is masked: ids, addresses and directories by their value
// (each server's own, so that an id in the place of another one shows), times and
// sizes by the place in which they stand. All else must be equal. Outputs in
// protobuf are compared as their fields, in JSON, so the same masks hold for them.
//
// The package knows nothing of the servers but their addresses. A [Session] is
// used by one goroutine at a time.
package ctl
