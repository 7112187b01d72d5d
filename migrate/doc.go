// Package migrate takes a store from one place to another: etcd, Keelson and kine, running or not.
//
// # One form
//
// Whatever is to be moved is an etcd database file first ([etcdfile]): a snapshot of a running server, an etcd's own file, or one that is made of a
// Keelson log or of kine's table, in a temporary directory. It has everything: the history that is kept, revision by revision, leases, alarms, users and
// roles. So there is one thing to look at before anything is written, to tell what the target cannot keep, and one thing to compare with afterwards; and for n
// kinds of places there are n readers and n writers.
//
// # Targets
//
// A target is at its place when it is whole, and not before: files and directories are made beside it and renamed, tables in a transaction or under another name. Nothing that is there is
// overwritten. A running server is the exception, as it can only be given changes, at new revisions: it must be empty, unless the caller says that it may be added to.
//
// # Proof
//
// In the end the target is read back and compared: where revisions are kept by a hash over all that the file has, and otherwise over what the target can have.
// What is made of a kine's rows, or is made into them, is compared once more by what either shows to clients, in a way that knows nothing of the conversion.
//
// # kine
//
// kine (see migrate/kine) has a row for each change, and the row's id is its revision. How the two are made of each other stands at fromKine and toKine.
//
// Nothing here logs or prints. A migration belongs to one goroutine; beside it one keeps the leases of a running server alive.
package migrate
