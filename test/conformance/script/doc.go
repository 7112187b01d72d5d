// Package script plays scripts of etcd requests against a server and writes
// down everything it answers, so that one server's answers can be compared
// with another's, line by line.
//
// A script is a sequence of commands. Under each command, after a line of
// four dashes, stands the answer; a blank line ends it. Lines before the first
// command that begin with # are comments; so are # lines between commands.
//
//	put a 1 lease=7 prev_kv
//	----
//	error NotFound: etcdserver: requested lease not found
//
//	txn
//	  if mod a = 0
//	  then put a 1
//	  then range a "\x00"
//	  else txn
//	    then del a
//	----
//	rev=2 succeeded
//	  put: rev=2
//	  range: rev=2 count=1
//	    a=1 create=2 mod=2 version=1
//
// The answers in testdata come from real etcd and are never written by hand:
// the conformance tests rewrite them with -rewrite, and a reviewer reads the
// difference.
//
// # Words
//
// Words are separated by blanks. Bytes are written bare (abc), as a Go string
// ("\x00"), or repeated (x*1000). Revisions are numbers, or relative to the
// newest revision the script has been told: @, @-2, @+1. min and max are the
// ends of int64. Lease ids are numbers, or $name after "grant 60 as=name".
//
// # Commands
//
//	range KEY [END] [limit= rev= order= target= serializable keys_only count_only
//	                 min_mod= max_mod= min_create= max_create=]
//	rangestream (as range; the chunks are merged, their rules are checked)
//	put KEY VALUE [lease= prev_kv ignore_value ignore_lease]
//	del KEY [END] [prev_kv]
//	txn, with indented lines:
//	    if TARGET KEY OP OPERAND [end= union=]   TARGET version create mod value lease or a number;
//	                                             OP = != < > or a number; union= names another
//	                                             operand field than the target's, or none
//	    then COMMAND, else COMMAND               COMMAND range put del txn or empty
//	compact REVISION [physical]
//	grant TTL [id= as=]; revoke ID; keepalive ID; ttl ID [keys]; leases
//	watch NAME KEY [END] [start= id= stream= prev_kv fragment progress_notify filters=0,1]
//	cancel NAME; cancelid ID [stream=]; closestream STREAM
//	events                what every watch got since the last time, when all that is due has come
//	progress [STREAM]     asks until the answer is at the newest revision; none is awaited where etcd gives none
//	notified NAME         waits for a progress notification of this watch
//	fragments NAME        whether its responses came in fragments, none over the limit
//	await REVISION        waits until the store is at this revision (an expiry)
//	hashkv [REVISION]; snapshot
//	history               everything at every revision since the last compaction, and the leases
//	call SERVICE.METHOD [field=value ...]        any unary method, nested fields as a.b=
//	restart; kill         ends the server, cleanly or not, and starts it on the same data
//
// A script's first command may be "server FLAG=VALUE ...": flags that the
// server needs.
//
// # What is compared
//
// All fields of all answers. Not comparable, and written as "set" or "self":
// cluster and member ids, raft's term and indexes, sizes of files, and tokens.
// A header's ids are named only when they are wrong. Remaining TTLs are written
// as "~granted" when they are within seconds of it. Watch responses may be cut
// differently by every server, so a watch's events are written one after the
// other; but order, uniqueness, atomicity per revision, the header's revision and
// the promise of a progress answer are checked, and a breach is an output line.
//
// A Player belongs to one goroutine. It starts one goroutine per watch stream,
// which ends with the stream.
package script
