// Package postgres is a log in a PostgreSQL database, which several servers may have open at once.
//
// It knows nothing of etcd; see package drivers for the contract. DESIGN.md says why it is made as it is.
//
// # Rules
//
//	P1  A transaction appends only while it holds the lock of the head row and has seen, in a statement begun after
//	    it had the lock, that the log's last row is the one that the append names.
//	P2  A batch's rows are inserted in one transaction. Its last row alone has the batch's columns set, so what
//	    has no such row after it is the tail of a transaction that is not committed, which nobody sees.
//	P3  A transaction names the head row's fence. Who does not know what became of one raises the fence,
//	    durably: from then on it is in the log, or never will be.
//	P4  Every transaction that writes the log sets synchronous_commit; a warning that a standby did not confirm it makes it uncertain, and nothing of it is ever cancelled.
//	P5  The scrub mark and the deletions it speaks of are committed together. Who reads rows and then the mark
//	    knows all holes among those rows to be at or below the mark.
//	P6  Nothing is needed of a session of the database: every exchange is one transaction, and connections may be
//	    shared by a pooler in transaction mode. LISTEN is used only when a message to oneself has come back. While it
//	    does, nobody shares sessions, and statements are prepared, under names made of their text; otherwise they have none.
//
// # Concurrency
//
// As the contract says. At most [Options.Connections] connections are open at a time; one Append or Hold uses one of them,
// the question of ReadIndex that all readers share another, Values, Scan and Follow share the rest. Log.Run listens,
// polls and notifies; without it appends by other servers are noticed by whoever asks.
package postgres
