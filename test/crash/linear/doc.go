// Package linear asks porcupine whether what clients of several servers were
// told is linearizable: whether there is one order of all requests, in which
// each comes between its call and its return, and in which one etcd, that does
// one request after the other, gives these very answers.
//
// The model is etcd's whole state: the revision, the keys with all that is
// known of them, the leases that are there, the compact revision. Revisions are
// a part of it: a change gets the one after the last, and the revision of an
// answer's header is the present one. So the search hardly ever has a choice,
// and a whole history of tens of thousands of requests is judged at once, with
// no need to cut it into parts.
//
// What had no answer may have been done at any time after its call, or never:
//
//   - A change whose effect a watch has shown was done at that revision. What
//     could have made a revision that no answer claims may have made it. All
//     else was never done, since the watch goes to the end.
//   - A grant, a revocation and a compaction may leave no trace. The state holds
//     them as perhaps done from the call on; the first answer that can be
//     explained only one way settles them. This is exact: nothing else depends on them.
//   - A read without an answer says nothing.
//
// The headers of leases' and compactions' answers are filled in after the
// request was done, as in etcd; they count as a read of the revision of their own.
// Serializable reads may look back, and are left to package history, as are watches.
//
// Everything here is a function of what was recorded.
package linear
