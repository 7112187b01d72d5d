// Package history loads a server with concurrent clients on few keys, records
// what they asked and were answered, and checks that one order of all changes
// explains every answer.
//
// That order is the server's own claim: the revisions, as a watch from the first
// one shows them. So checking needs no search:
//
//   - revisions rise by one, and a key's create_revision and version follow from those before;
//   - an answered change is what its revision did, whole, and no two share a revision;
//   - every answer, of reads and transactions too, is what the state at the revision of
//     its header gives, or for a change the state before it;
//   - a request that began when another had ended has a revision not below the other's, and above
//     it if it changed something; only serializable reads may look back;
//   - a revision that no answered request made was made by one without an answer, once, or by
//     the revocation of a lease that somebody asked for; keys of a revoked lease are gone;
//   - every watcher saw the same events in the same order, each once, with the right previous
//     values, revisions whole, and none after a progress notification that is ahead of it.
//
// Leases may be refused only where somebody may have revoked them, revisions of the past where somebody may have
// compacted them.
//
// A request has no answer if its connection broke: it may have been executed, up to the moment at which
// a server that was started again served. Anything else is an answer: errors of the server change nothing.
//
// [Check] is a function of what was recorded. [Recorder], [Load] and [Watcher] may be used by several
// goroutines at once where their methods say so. What a client asks is a function of its seed and of what
// it was answered; how clients meet is not.
package history
