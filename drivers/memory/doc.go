// Package memory is a log in memory, for the tests of what stands above the
// drivers. It keeps the contract of package drivers but for durability, and it
// fails on request: see [Log.Inject].
//
// A [Store] plays the database and outlives the [Log]s opened on it, each of which
// plays one server's connection. Opening a store twice makes two writers that
// compete as two servers on one Postgres do; closing a log and opening
// another one is a restart.
//
// Nothing here is tuned: every read copies what it gives.
package memory
