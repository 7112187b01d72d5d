// Package nullserver is the ceiling of the benchmark: a gRPC server with as much of etcd's KV, Watch and Lease as the
// loads use, that holds everything in memory and makes nothing durable. What it reaches is what client, gRPC and
// protobuf leave for a server. It is right about revisions, counts, order and prev_kv, so that the loads' checks hold for
// it as for any other; it knows no history, no deletion, no errors beyond Unimplemented, and no request of a shape the
// loads do not send.
//
// An event is encoded once, when it is written, however many watch it; answers are put together from those pieces.
//
// Concurrency: one mutex orders the writes, and events are queued under it, so they are in revision order. Ranges take
// it for reading. Each watch stream has a goroutine that sends what is queued, all of it in one response.
package nullserver
