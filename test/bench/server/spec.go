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
	KinePostgresTuned  = "kine-postgres-120"
	KeelsonPostgres    = "keelson-postgres"
	KeelsonPostgresTwo = "keelson-postgres-two"

	EtcdRaft    = "etcd-raft"
	KeelsonRaft = "keelson-raft"
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
	// Raft says that the processes are the members of a cluster, each with data of its own, see Options.Cluster.
	Raft bool
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

// etcdArgs are etcd's flags, which are Keelson's too. Everything that is not a name, an address or a path keeps its default.
func etcdArgs(p ports, o Options) []string {
	peer := "http://" + p.peer
	client := "http://" + p.client
	name, cluster := "bench", "bench="+peer
	if o.Cluster != nil {
		name, cluster = memberName(o.Member), o.Cluster.initial()
	}
	return []string{
		"--name=" + name,
		"--data-dir=" + filepath.Join(o.Dir, "bench.etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + cluster,
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
		{Name: KinePostgresTuned, Title: "kine 0.17.5, 120 connections", Binary: kine, Postgres: true, args: kineTunedArgs},
		{Name: KeelsonPostgres, Title: "Keelson", Binary: keelson, Pprof: "--enable-pprof", Postgres: true, args: keelsonPostgresArgs},
		{Name: KeelsonPostgresTwo, Title: "Keelson, two servers", Binary: keelson, Pprof: "--enable-pprof", Postgres: true, Processes: 2, args: keelsonPostgresArgs},
	}
}

func keelsonPostgresArgs(p ports, o Options) []string {
	return append(etcdArgs(p, o), "--datastore="+o.Database)
}

// kineAtMost is more connections than kine opens at its defaults. Where Postgres refuses it one, it loses writes that it has
// acknowledged: the benchmark's own checks found 4,990 keys of 5,000.
const kineAtMost = 400

// kinePostgresArgs leave kine at its defaults: no bound on connections, of which 20 are kept. Under 100 clients it connects anew all the time.
func kinePostgresArgs(p ports, o Options) []string {
	return append(kineArgs(p, o), "--endpoint="+o.Database)
}

// kineConnections is about where kine is at its best with 100 clients, as somebody finds who tunes it: from 110 to 150. For a write on
// Postgres it holds two at a time: one with a transaction that stays empty, one that inserts beside it. So with a bound at or below the
// number of clients that write at once it stands still for good, every connection waiting for a second one.
const kineConnections = 120

func kineTunedArgs(p ports, o Options) []string {
	return append(kinePostgresArgs(p, o),
		fmt.Sprintf("--datastore-max-open-connections=%d", kineConnections),
		fmt.Sprintf("--datastore-max-idle-connections=%d", kineConnections))
}

// members is how many members a cluster has.
const members = 3

// RaftSpecs lists the servers that keep their data in a cluster of three members, in the order in which tables show them.
func RaftSpecs(bin string) []Spec {
	etcd, keelson := filepath.Join(bin, "etcd"), filepath.Join(bin, "keelson")
	return []Spec{
		{Name: EtcdRaft, Title: "etcd 3.7.3", Binary: etcd, Pprof: "--enable-pprof", Raft: true, Processes: members, args: etcdArgs},
		{Name: KeelsonRaft, Title: "Keelson", Binary: keelson, Pprof: "--enable-pprof", Raft: true, Processes: members, args: etcdArgs},
	}
}
