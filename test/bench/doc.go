// The benchmark behind `make bench`.
//
// Each load runs on each server in turn, each time as a process of its own on a fresh data directory, for several
// rounds; the server that comes first changes from round to round. At the beginning the servers' executables are read
// from disk, as after a boot. The table has medians, Keelson's ratio to etcd taken round by round, and for each floor of
// the project whether it is met. It is printed, kept as JSON in .build/bench, and, when everything was measured at full
// length, written into the README between two markers.
//
// There are three tables, each with servers, loads and floors of its own: one of servers that are alone with their data,
// one of servers that keep it in Postgres, and one of clusters of three members. Each run on Postgres has one of its own,
// real and durable, on a fresh data directory, and where two servers share it the clients are spread over both. The members
// of a cluster are three processes on this machine with etcd's default timeouts; which one leads is asked before each load
// and again after it.
//
//	bench -root ../..                                    everything
//	bench -root ../.. -table postgres                    one of the tables, whole
//	bench -root ../.. -table raft -only failover -rounds 1
//	bench -root ../.. -keelson /tmp/other -only list     with another build of keelson
//	bench -root ../.. -scale 0.1 -rounds 1               a quick look
//	bench -root ../.. -only create-100 -servers etcd,keelson
//	bench -root ../.. -only list -servers keelson,keelson-postgres -profile /tmp/profiles
//
// What a kube-apiserver does to a server's memory is measured where there is one, in test/kube, which leaves its figures
// in .build/bench/memory-kube.json for the table (see report.Results.AddElsewhere).
//
// The packages: load has the loads, server the processes, nullserver the ceiling, stats the arithmetic, report tables
// and floors; this one puts them together. Imports run report → load → server, stats.
package main
