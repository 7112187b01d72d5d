// Package differ makes random scripts, plays each on real etcd and on a server
// under test, compares every answer, and shrinks a script on which they differ.
//
// A script is a list of steps; a step is one command or several that belong
// together, so that shrinking does not part them. Revisions in the commands are
// mostly relative to the newest one, so that a step still means the same when
// those before it are taken away. What a seed makes depends on nothing else.
//
// Requests are sequential, so that a correct server has only one answer to give.
// Not made: what etcd itself does not survive (a transaction that deletes from a
// key on and puts what it deleted), leases short enough to expire, and what enables authentication.
package differ
