// Package load has the loads of the benchmark and runs one of them on one server. A load starts its server, or those
// that share their data, works on it through the public etcd client, checks what came back, and gives its figures. It does
// not know which servers are compared, how often, or what is expected of them.
//
// What every load holds to:
//
//   - An error response, a refused transaction or a failed check ends the run with an error. Nothing is counted then.
//   - Nothing is retried: the client's own retries are off. Only the load that kills leaders has clients that try again, and
//     a load is run anew when a cluster's leader did not stay the same.
//   - Written is what can be read: after the writes the count and a sample of the values must be right, and revisions
//     must have risen for every client with each of its writes.
//   - Keys look like kube-apiserver's, values are random bytes.
//   - The client takes half the machine, so an operation costs it one reading of the clock, a key, and the etcd client.
package load
