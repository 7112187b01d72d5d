package report

import (
	"github.com/keelson-io/keelson/test/bench/load"
	"github.com/keelson-io/keelson/test/bench/server"
)

// The names of tables on the command line.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
	Raft     = "raft"
)

// Table says what one of the tables compares.
type Table struct {
	// Name is the table's name on the command line.
	Name string
	// Marker names the lines of the README between which it stands: <!-- Marker:begin --> and <!-- Marker:end -->.
	Marker string
	// Servers are its columns and Loads its rows, in the order in which they are run and shown.
	Servers []server.Spec
	Loads   []load.Load
	// Floors are what Keelson is judged by.
	Floors []Floor
	// Ours and Reference name the servers whose ratio has a column.
	Ours, Reference string
	// Note is what a reader has to know beside, a sentence after a space.
	Note string
}

// Tables lists all tables, with servers from the binaries of bin, and self, the benchmark's own executable.
func Tables(bin, self string) []Table {
	return []Table{
		{
			Name: SQLite, Marker: "bench", Servers: server.Specs(bin, self), Loads: load.All(), Floors: sqliteFloors(),
			Ours: server.Keelson, Reference: server.Etcd,
		},
		{
			Name: Postgres, Marker: "bench-postgres", Servers: server.PostgresSpecs(bin), Loads: load.Postgres(), Floors: postgresFloors(),
			Ours: server.KeelsonPostgres, Reference: server.KinePostgres,
			Note: " Clients are spread over two servers evenly, but for the updates: there one server has all writers, the other all watchers.",
		},
		{
			Name: Raft, Marker: "bench-raft", Servers: server.RaftSpecs(bin), Loads: load.Raft(), Floors: raftFloors(),
			Ours: server.KeelsonRaft, Reference: server.EtcdRaft,
			Note: " Each is a cluster of three members on this machine, at its defaults; a run in which the leader did not stay the same, but for that of the kills, is done anew.",
		},
	}
}
