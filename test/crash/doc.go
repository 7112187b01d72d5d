// Package crash kills a server under load, again and again, and checks after
// each restart that everything it has said is true.
//
// The server is a process of its own that takes etcd's flags, so that etcd can
// prove the tests (-server=etcd). Writers, readers, lease holders,
// compactions and defragmentations load it through the etcd client while watchers
// record the whole history. A ledger holds what the writers asked for and what they were
// answered. After each kill the history is read to its end and held against it:
//
//   - revisions rise by one and are never used twice, whatever was killed;
//   - each acknowledged change is in the history, once, at the revision of its
//     answer; each other one is there once and whole, or not at all;
//   - nothing is there that nobody asked for, but for leases that expired, no
//     sooner than they may;
//   - every read, made before or after the kill, showed what the history says
//     was true at the revision of its answer;
//   - watchers that went on from their last revision have seen each event once
//     and in order, and a watcher that reads the history anew sees the same.
//
// The ledger is a function of what it is given; TestLedger proves that it sees
// each of these faults.
package crash
