// Package shared breaks several servers of one store, and the store, under load,
// and checks that all they have said is true.
//
// The servers are processes of their own: Keelson on one Postgres database, each
// behind a proxy of its own; and a cluster of etcd, which proves the tests. Each round loads them
// with clients that keep to a server or change it with each request, strikes with
// one fault (kill -9, a process that stands still, the database gone in different
// ways, connections cut or dead), and then asks:
//
//   - that every request has ended in time, whatever the fault;
//   - that each server serves again soon after the fault, and that nobody but the fault ended one;
//   - that each watcher sees everything up to the end: on each server one that goes on
//     where its stream broke, one that begins anew at random, one of some keys; and one that
//     changes servers.
//
// When all rounds of a history are over, it is judged as a whole, by package history in the
// order that the servers claim, and by package linear, that is porcupine, in any order; the hashes
// of the servers' states must be equal; and the log on Postgres is walked for its invariants. A request may
// fail, as long as its error says no more than what is so.
package shared
