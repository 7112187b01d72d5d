// Package history serves keelson.v1.History: what the log has of the past, for `keelson history` and `keelson rewind`. It is on the client port, beside etcd's services.
//
// A call reads the log in parts, gives what it finds in messages of about 128 KiB, or of a single value that has more, and goes on when the client has taken
// them. What it keeps in mind is bounded: of Changes one part, of Rewound the keys that have changed, sqllog.MostRewound at most. For so many calls at once (Options.AtOnce) the log is read; a call whose client is to take something
// does not count. So many calls there are at once (Options.AtOnce and Options.Streams), and where there are as many, one whose client takes nothing is ended for one that waits (seats.go).
// Who waits for long is told so.
// It needs no leader: a member tells what it has. A rewind is done by the client, by etcd's own transactions.
package history
