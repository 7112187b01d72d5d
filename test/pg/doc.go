// Package pg runs real PostgreSQL servers for tests and measurements, breaks them on request, and leaves
// nothing behind. It knows nothing of what is stored.
//
// The programs are those installed on the machine, of PostgreSQL 15 or later; `make postgres` sees to them.
// It runs on Linux. What it promises:
//
//  1. Any number of servers run side by side: each has a directory and a port of 127.0.0.1 of its own, and
//     keeps both until Close.
//  2. A server's processes end with the process that started it, even when that one is killed, and even when
//     they are paused. So do the directories.
//  3. Signals go only to processes of the server they are meant for. What these are is told by their working
//     directory, which is the server's data directory, and not by a name.
//  4. Everything a server prints is in one file, appended to by each start.
//
// # Users
//
// Postgres refuses to run as root. For root the programs run as the user postgres, or nobody where there is
// none, and directories belong to that user; for everybody else they run as oneself. The superuser inside
// is called postgres and has a password, which holds a character that URLs have to escape.
//
// # Speed
//
// initdb takes a second, so each process does it once, in a template that every server begins as a copy
// of. Servers therefore share a system identifier, and the password, and the keys for TLS.
//
// # Concurrency
//
// Methods that start, stop or pause a server are called by one goroutine at a time. All others may be called by any
// number of goroutines, and at the same time.
package pg
