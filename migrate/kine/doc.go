// Package kine reads and fills the table that kine keeps its keys in: SQLite, Postgres, MySQL and MariaDB. It knows kine's SQL
// (github.com/k3s-io/kine, pkg/drivers) and nothing of etcd.
//
// The table has a row for each change of a key, and the row's id is the revision of that change:
//
//	id  name  created  deleted  create_revision  prev_revision  lease  value  old_value
//
// lease is how many seconds the key lives, and no lease's id. Rows that are no change of a key: compact_rev_key, whose prev_revision is the compact revision; and gap-N at id N, which stands for an id that
// the database has given away and not used.
//
// A reading is of one moment, and kine may go on meanwhile. A table that is filled comes to be as a whole or not at all.
package kine
