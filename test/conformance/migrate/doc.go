// Package migrate tests keelson migrate with real servers: etcd, etcdutl, Keelson, and kine on SQLite, PostgreSQL and MariaDB.
package migrate
