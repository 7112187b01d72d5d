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
	// args gives the command line for these ports; the working directory is the data directory.
	args func(p ports, dir string) []string
}

// ports are the loopback addresses one start of a server may listen on, as host:port.
type ports struct{ client, peer string }

// Specs lists all servers in the order in which tables show them: the binaries of bin, and self, the benchmark's own
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
func etcdArgs(p ports, dir string) []string {
	peer := "http://" + p.peer
	client := "http://" + p.client
	return []string{
		"--name=bench",
		"--data-dir=" + filepath.Join(dir, "bench.etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=bench=" + peer,
	}
}

// kineArgs leave kine's storage at its default: SQLite in ./db/state.db with _synchronous=NORMAL.
func kineArgs(p ports, _ string) []string {
	return []string{"--listen-address=tcp://" + p.client, "--metrics-bind-address=0"}
}

// kineFullArgs are kine's default parameters for SQLite with the one difference that a commit is durable.
func kineFullArgs(p ports, dir string) []string {
	const params = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
	return append(kineArgs(p, dir), fmt.Sprintf("--endpoint=sqlite://./db/state.db?%s", params))
}

func nullArgs(p ports, _ string) []string {
	return []string{"null", "-listen=" + p.client}
}
