// Package history serves keelson.v1.History: what the log has of the past, for `keelson history` and `keelson rewind`. It is on the client port, beside etcd's services.
//
// A call reads the log in parts, gives what it finds in messages of about a megabyte, and goes on when the client has taken them. What it keeps in mind is bounded: of Changes
// one part, of Rewound the keys that have changed, sqllog.MostRewound at most. So many calls at once (Options.AtOnce) are served, more wait.
// It needs no leader: a member tells what it has. A rewind is done by the client, by etcd's own transactions.
package history
