package mvcc

import (
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// Record is what one entry of the log says.
type Record struct {
	// Changes are the changes of keys, without what they replaced.
	Changes []Event
	// Lease is the state of a lease that was granted or checkpointed.
	Lease *Lease
	// Revoked is the id of a lease that ended.
	Revoked int64
	// Compact is a new compact revision.
	Compact int64
	// Marker is a revision at which no key changed.
	Marker int64
	// Alarm is an alarm that was raised, or disarmed if not Raised.
	Alarm  *Alarm
	Raised bool
	// Member is a member as it is from then on, or one that was removed.
	Member *Member
	// User or Role is a user or role that was changed or removed.
	User *User
	Role *Role
}

// Decode reads an entry. ErrBadEntry if it cannot be read.
func Decode(e *drivers.Entry) (Record, error) {
	var r Record
	err := r.decode(e)
	return r, err
}

// decode is Decode into a record, whose room for changes is used again.
func (r *Record) decode(e *drivers.Entry) (err error) {
	*r = Record{Changes: r.Changes[:0]}
	switch e.Kind {
	case KindPut:
		ev := Event{Value: e.Value}
		ev.Key, ev.Version, err = decodePut(e.Meta)
		ev.Position = e.Position
		r.Changes = append(r.Changes, ev)
	case KindDelete:
		main, sub, keys, derr := decodeDelete(e.Meta)
		for i, k := range keys {
			r.Changes = append(r.Changes, Event{Key: k, Version: Version{Main: main, Sub: sub + int32(i), Position: e.Position}})
		}
		err = derr
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
		r.Alarm, r.Raised = &Alarm{uint64(member), int32(alarm), e.Position}, on == 1
	case KindMember, KindJoined:
		r.Member, err = decodeMember(e)
	case KindUser:
		r.User, err = decodeUser(e)
	case KindRole:
		r.Role, err = decodeRole(e)
	case KindMarker:
		err = decodeInts(e.Meta, &r.Marker)
	case KindBarrier:
	default:
		err = fmt.Errorf("%w: unknown kind %d", ErrBadEntry, e.Kind)
	}
	return err
}
