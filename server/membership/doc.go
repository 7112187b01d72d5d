// Package membership computes the ids of members and clusters as etcd does.
//
// Clients see the ids in every response's header, and tools compare them: a server that is to stand in for an
// etcd, or to be told apart from another, must come to the same numbers from the same configuration. They are
// stable, since they derive from what is written in it.
//
// The package must not know where a configuration comes from nor who the members are now. It has no state.
package membership
