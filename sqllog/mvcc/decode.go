package mvcc

import (
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// Record is what one entry of the log says, for those who examine a log rather than serve it.
type Record struct {
	// Changes are the changes of keys, without what they replaced.
	Changes []Event
	// Lease is the state of a lease that was granted or checkpointed.
	Lease *Lease
	// Revoked is the id of a lease that ended.
	Revoked int64
	// Compact is a new compact revision.
	Compact int64
	// User or Role is a user or role that was changed or removed.
	User *User
	Role *Role
}

// Decode reads an entry. ErrBadEntry if it cannot be read.
func Decode(e *drivers.Entry) (Record, error) {
	var r Record
	var err error
	switch e.Kind {
	case KindPut:
		ev := Event{Value: e.Value}
		ev.Key, ev.Version, err = decodePut(e.Meta)
		ev.Position = e.Position
		r.Changes = []Event{ev}
	case KindDelete:
		var main int64
		var sub int32
		var keys []string
		main, sub, keys, err = decodeDelete(e.Meta)
		for i, k := range keys {
			r.Changes = append(r.Changes, Event{Key: k, Version: Version{Main: main, Sub: sub + int32(i), Position: e.Position}})
		}
	case KindLease:
		r.Lease = &Lease{position: e.Position}
		err = decodeInts(e.Meta, &r.Lease.ID, &r.Lease.TTL, &r.Lease.Remaining)
	case KindLeaseRevoked:
		err = decodeInts(e.Meta, &r.Revoked)
	case KindCompaction:
		err = decodeInts(e.Meta, &r.Compact)
	case KindAlarm:
		var member, alarm, on int64
		err = decodeInts(e.Meta, &member, &alarm, &on)
	case KindMember:
		_, err = decodeMember(e.Meta)
	case KindUser:
		r.User, err = decodeUser(e)
	case KindRole:
		r.Role, err = decodeRole(e)
	case KindBarrier:
	default:
		err = fmt.Errorf("%w: unknown kind %d", ErrBadEntry, e.Kind)
	}
	return r, err
}
