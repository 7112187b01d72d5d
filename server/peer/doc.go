// Package peer is how the members of a cluster talk to each other: the service that each serves on its peer port, and
// the connections to the others.
//
// A member has three connections to every other one. Two carry Raft messages, one way: all MsgApps, and whatever has
// entries, on one; everything else on the other, so that a heartbeat does not wait behind megabytes. All MsgApps share
// a connection because one without entries that overtakes one with them would be refused by the follower. The third is
// for calls: etcd's API forwarded to the leader, copies, renewals. Each has a stream on which the other member pulses
// every second; a connection that is silent for five seconds is given up. (gRPC's own pings take fifteen.)
//
// A member that has moved is reached where it was as long as the connections to there are whole. Answers go over connections of their own, so who was away while the others moved
// must hear where they are before the log can come: a member says so itself, on the stream of the third connection, as the log has it, and at which position the log does.
//
// Raft repairs what is lost, so messages that cannot be sent soon are dropped and reported, never kept: a message
// to a member that is away would only be old when it comes back.
//
// A Counter, if there is one, is told of the bytes of all connections, at both ends, of every message that is dropped, and of what a call each few seconds takes.
//
// Every call says of which cluster and member it comes, and for which member it is (metadata.go). The Guard refuses
// what does not fit. It also says what the cluster began with, if that was not an empty log, and of a founder that it
// has never had an entry, as long as that is so: then those refuse it that know better. That is against confusion, such as an address that was given to another cluster. Who
// may come at all, TLS decides: as in etcd, whoever reaches a peer port that demands no client certificate may say
// that it is any member.
//
// Invariants:
//
//  1. Send takes locks that are held for moments only, and waits for no network.
//  2. Messages of one connection arrive in the order of their sending, without gaps until the stream ends.
//  3. No callback is called by Send, SetPeers or Conn: all come from one goroutine of the Network, one at a time.
//  4. After Close has returned no goroutine of the Network is left.
//
// The package must not know what the messages are about, nor where rows and leases come from.
package peer
