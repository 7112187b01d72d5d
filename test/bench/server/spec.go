package server

import (
	"fmt"
	"path/filepath"
)

// The names by which servers are known on the command line and in floors.
const (
	Etcd     = "etcd"
	KineFull = "kine-full"
	Kine     = "kine"
	Keelson  = "keelson"
	Null     = "null"

	KinePostgres       = "kine-postgres"
	KeelsonPostgres    = "keelson-postgres"
	KeelsonPostgresTwo = "keelson-postgres-two"
)

// Spec says how one server is started.
type Spec struct {
	// Name is the server's name on the command line and in results.
	Name string
	// Title is its name in tables.
	Title string
	// Binary is the absolute path of its executable.
	Binary string
	// Pprof is the flag that opens /debug/pprof on the client URL, empty where there is none.
	Pprof string
	// Processes is how many of them serve the same data, each on a URL of its own; 0 means one.
	Processes int
	// Postgres says that the data is in a PostgreSQL database, see Options.Database.
	Postgres bool
	// args gives the command line for these ports; the working directory is the data directory.
	args func(p ports, o Options) []string
}

// ports are the loopback addresses one start of a server may listen on, as host:port.
type ports struct{ client, peer string }

// Specs lists the servers that need nothing else in the order in which tables show them: the binaries of bin, and self, the benchmark's own
// executable, which is the null server when it is called with "null".
func Specs(bin, self string) []Spec {
	return []Spec{
		{Name: Etcd, Title: "etcd 3.7.3", Binary: filepath.Join(bin, "etcd"), Pprof: "--enable-pprof", args: etcdArgs},
		{Name: KineFull, Title: "kine 0.17.5, FULL", Binary: filepath.Join(bin, "kine"), args: kineFullArgs},
		{Name: Kine, Title: "kine 0.17.5, its default", Binary: filepath.Join(bin, "kine"), args: kineArgs},
		{Name: Keelson, Title: "Keelson", Binary: filepath.Join(bin, "keelson"), Pprof: "--enable-pprof", args: etcdArgs},
		{Name: Null, Title: "stores nothing", Binary: self, args: nullArgs},
	}
}

// etcdArgs are etcd's flags, which are Keelson's too. Everything that is not an address or a path keeps its default.
func etcdArgs(p ports, o Options) []string {
	peer := "http://" + p.peer
	client := "http://" + p.client
	return []string{
		"--name=bench",
		"--data-dir=" + filepath.Join(o.Dir, "bench.etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=bench=" + peer,
	}
}

// kineArgs leave kine's storage at its default: SQLite in ./db/state.db with _synchronous=NORMAL.
func kineArgs(p ports, _ Options) []string {
	return []string{"--listen-address=tcp://" + p.client, "--metrics-bind-address=0"}
}

// kineFullArgs are kine's default parameters for SQLite with the one difference that a commit is durable.
func kineFullArgs(p ports, o Options) []string {
	const params = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
	return append(kineArgs(p, o), fmt.Sprintf("--endpoint=sqlite://./db/state.db?%s", params))
}

func nullArgs(p ports, _ Options) []string {
	return []string{"null", "-listen=" + p.client}
}

// PostgresSpecs lists the servers that keep their data in Postgres, in the order in which tables show them.
func PostgresSpecs(bin string) []Spec {
	kine, keelson := filepath.Join(bin, "kine"), filepath.Join(bin, "keelson")
	return []Spec{
		{Name: KinePostgres, Title: "kine 0.17.5", Binary: kine, Postgres: true, args: kinePostgresArgs},
		{Name: KeelsonPostgres, Title: "Keelson", Binary: keelson, Pprof: "--enable-pprof", Postgres: true, args: keelsonPostgresArgs},
		{Name: KeelsonPostgresTwo, Title: "Keelson, two servers", Binary: keelson, Pprof: "--enable-pprof", Postgres: true, Processes: 2, args: keelsonPostgresArgs},
	}
}

func keelsonPostgresArgs(p ports, o Options) []string {
	return append(etcdArgs(p, o), "--datastore="+o.Database)
}

// kineConnections is how many connections kine may open, and keeps. For a write on Postgres it holds two at a time: one
// with a transaction that stays empty, one that inserts beside it. So with a bound at or below the number of clients
// that write at once (100 here) it stands still for good, every connection waiting for a second one. By default there is
// no bound and 20 are kept: then it connects anew all the time, gets a fifth of the work done, and is refused by Postgres
// beyond max_connections, which is 100 by default and raised for it (see StartPostgres). From 110 to 150 kine is at its best.
const kineConnections = 120

func kinePostgresArgs(p ports, o Options) []string {
	return append(kineArgs(p, o), "--endpoint="+o.Database,
		fmt.Sprintf("--datastore-max-open-connections=%d", kineConnections),
		fmt.Sprintf("--datastore-max-idle-connections=%d", kineConnections))
}
