// Package cluster asks a cluster of three for changes of its members, one after the other, and holds the answers against what
// etcd said to the same: codes, texts, and the fields that do not differ from run to run.
//
// The answers stand in testdata/etcd.txt, a line for each call; -rewrite asks etcd and writes them anew. A call that has to end by
// itself gets a deadline well beyond the one that etcd has for a request, so that a line also says that the answer came in time.
//
// Another test takes such a cluster from http to https.
//
// What is waited for is asked for again and again until it is so: that the members have been connected for
// five seconds, that there is a leader, that there is none any more.
package cluster
