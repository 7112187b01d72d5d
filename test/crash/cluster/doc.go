// Package cluster breaks a cluster of servers under load, and checks that all they have said is true.
//
// The servers are processes of their own, of any program that speaks etcd's flags and API: Keelson, and etcd, which
// proves the drills (-server etcd). Each has a network namespace of its own on one bridge, so that packets
// from one member to another can be dropped for one direction, and no program has to know. The tests run in namespaces
// themselves: whatever ends them ends all servers, and leaves neither networks nor mounts behind.
//
// A drill loads a cluster with clients, each of whose requests goes to one member and to no other. Meanwhile it
//
//   - strikes with faults: kill -9, processes that stand still, members cut off in both directions or in one,
//     lines that flap or are slow, restarts, another leader, a full disk, clocks that are set, members that come and go;
//   - asks, while a fault lasts, for what has to go on: the majority serves, and the others answer serializable reads;
//   - keeps leases alive, which must not end;
//   - watches everything on every member, over all faults.
//
// Faults last until what they are for was seen: another leader, a write by the majority. When all are
// over, the whole is judged: by package history in the order of the revisions, by package linear in any order,
// by the members' hashes, their list, and by [goesBack]: no member shows less than it has shown before, while it runs.
//
// The wall clock of one process cannot be set from outside, since Go asks the kernel and not the C library: the servers of
// [TestClocks] are built with a package time that was changed for it, by cmd/clock.
package cluster
