package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// The kinds of entries in the log. Numbers are on disk: never reuse one.
const (
	// KindPut is one put: a version of a key, and its value.
	KindPut uint8 = 1
	// KindDelete holds tombstones of one revision, keys ascending, subs
	// counting up from the first: deleting a million keys is a few hundred entries.
	KindDelete uint8 = 2
	// KindLease is the whole state of a lease: granted, or checkpointed since.
	KindLease uint8 = 3
	// KindLeaseRevoked ends a lease.
	KindLeaseRevoked uint8 = 4
	// KindCompaction moves the compact revision.
	KindCompaction uint8 = 5
	// KindAlarm raises or disarms an alarm of a member.
	KindAlarm uint8 = 6
	// KindBarrier says nothing: whoever appends one has proven that appending works and what the end is. One whose meta is 1 says
	// that the log was made of a snapshot: up to its compact revision there, it never had all changes.
	KindBarrier uint8 = 7
	// KindMember is the whole state of the member for which the log was founded. Of a server that is alone the log has no other.
	KindMember uint8 = 8
	// KindUser is the whole state of a user of the Auth API, or says that there is none of its name any more;
	// either way it says which auth revision that is.
	KindUser uint8 = 9
	// KindRole is the same of a role.
	KindRole uint8 = 10
	// KindJoined is the whole state of another member than the founder, or says that a member, be it the founder, was removed
	// for good. Servers that take every member for themselves do not know this kind, and leave a log alone that has one.
	KindJoined uint8 = 11
	// KindMarker raises the revision and changes no key.
	KindMarker uint8 = 12
)

// maxDeleteMeta bounds a KindDelete entry, so that no driver meets one too large to carry.
const maxDeleteMeta = 64 << 10

// ErrBadEntry: an entry of the log cannot be read.
var ErrBadEntry = errors.New("mvcc: malformed log entry")

func appendPut(buf []byte, key string, v *Version) []byte {
	for _, u := range [...]int64{v.Main, int64(v.Sub), v.Main - v.Create, v.Count, v.Lease, int64(v.Size)} {
		buf = binary.AppendUvarint(buf, uint64(u))
	}
	return append(buf, key...)
}

func decodePut(meta []byte) (key string, v Version, err error) {
	d := decoder{buf: meta}
	v.Main = d.int()
	v.Sub = int32(d.int())
	v.Create = v.Main - d.int()
	v.Count = d.int()
	v.Lease = d.int()
	v.Size = int32(d.int())
	key = string(d.buf)
	if d.bad || v.Count <= 0 || key == "" {
		return "", v, fmt.Errorf("%w: put", ErrBadEntry)
	}
	return key, v, nil
}

// appendDelete encodes as many of the keys as fit into one entry and says how many those were.
func appendDelete(buf []byte, main int64, sub int32, keys []string) ([]byte, int) {
	body, n, prev := make([]byte, 0, 256), 0, ""
	for _, k := range keys {
		if n > 0 && len(body)+len(k) > maxDeleteMeta {
			break
		}
		shared := 0
		for shared < len(prev) && shared < len(k) && prev[shared] == k[shared] {
			shared++
		}
		body = binary.AppendUvarint(body, uint64(shared))
		body = binary.AppendUvarint(body, uint64(len(k)-shared))
		body = append(body, k[shared:]...)
		prev = k
		n++
	}
	buf = binary.AppendUvarint(buf, uint64(main))
	buf = binary.AppendUvarint(buf, uint64(sub))
	buf = binary.AppendUvarint(buf, uint64(n))
	return append(buf, body...), n
}

func decodeDelete(meta []byte) (main int64, sub int32, keys []string, err error) {
	d := decoder{buf: meta}
	main, sub = d.int(), int32(d.int())
	n := d.int()
	if d.bad || n <= 0 || n > int64(len(d.buf)) {
		return 0, 0, nil, fmt.Errorf("%w: delete", ErrBadEntry)
	}
	keys = make([]string, 0, n)
	prev := ""
	for range n {
		shared, rest := d.int(), d.int()
		if d.bad || shared < 0 || shared > int64(len(prev)) || rest < 0 || rest > int64(len(d.buf)) || shared+rest == 0 {
			return 0, 0, nil, fmt.Errorf("%w: delete", ErrBadEntry)
		}
		prev = prev[:shared] + string(d.buf[:rest])
		d.buf = d.buf[rest:]
		keys = append(keys, prev)
	}
	return main, sub, keys, nil
}

func appendInts(buf []byte, ints ...int64) []byte {
	for _, i := range ints {
		buf = binary.AppendUvarint(buf, uint64(i))
	}
	return buf
}

func decodeInts(meta []byte, into ...*int64) error {
	d := decoder{buf: meta}
	for _, p := range into {
		*p = d.int()
	}
	if d.bad || len(d.buf) != 0 {
		return ErrBadEntry
	}
	return nil
}

// encodeAuth writes down a change of a user or role. Of one that is removed the message has the name alone.
func encodeAuth(c AuthChange, m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(appendInts(nil, c.AuthRev, flag(c.Removed)), m)
}

func decodeAuth(e *drivers.Entry, into proto.Message) (AuthChange, error) {
	d := decoder{buf: e.Meta}
	rev, removed := d.int(), d.int()
	if err := proto.Unmarshal(d.buf, into); err != nil || d.bad || rev < 2 || removed < 0 || removed > 1 {
		return AuthChange{}, fmt.Errorf("%w: user or role", ErrBadEntry)
	}
	return AuthChange{rev, removed == 1, e.Position}, nil
}

func decodeUser(e *drivers.Entry) (*User, error) {
	u := &User{User: new(authpb.User)}
	var err error
	if u.AuthChange, err = decodeAuth(e, u.User); err == nil && len(u.Name) == 0 {
		err = fmt.Errorf("%w: user", ErrBadEntry)
	}
	return u, err
}

func decodeRole(e *drivers.Entry) (*Role, error) {
	r := &Role{Role: new(authpb.Role)}
	var err error
	if r.AuthChange, err = decodeAuth(e, r.Role); err == nil && len(r.Name) == 0 {
		err = fmt.Errorf("%w: role", ErrBadEntry)
	}
	return r, err
}

// decoder reads varints off a buffer; bad stays set once something did not fit.
type decoder struct {
	buf []byte
	bad bool
}

func (d *decoder) int() int64 {
	u, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.bad, d.buf = true, nil
		return 0
	}
	d.buf = d.buf[n:]
	return int64(u)
}
