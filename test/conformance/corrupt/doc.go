// Package corrupt alters the database of one member of a cluster of three while it is stopped, and looks whether the cluster finds out, and what it
// does then; and what a CORRUPT alarm does that a client raises.
//
// What takes a check's time to come about is asked for again and again until it is so.
package corrupt
