package etcdfile

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
)

// putMeta writes all but the bucket meta. m is not changed.
func (w *Writer) putMeta(m *Meta) error {
	if len(m.ConfState) > 0 && !json.Valid(m.ConfState) {
		return w.fail(fmt.Errorf("%w: a conf state that is not JSON", ErrMeta))
	}
	byID := func(a, b Lease) int { return cmp.Compare(uint64(a.ID), uint64(b.ID)) }
	for _, l := range slices.SortedFunc(slices.Values(m.Leases), byID) {
		if err := w.put(leaseBucket, number(uint64(l.ID)), l.marshal()); err != nil {
			return err
		}
	}
	for _, put := range []func(*Meta) error{w.putMembers, w.putAlarms, w.putAuth} {
		if err := put(m); err != nil {
			return err
		}
	}
	if m.ClusterVersion == "" {
		return w.err
	}
	return w.put(clusterBucket, []byte(clusterVersionKey), []byte(m.ClusterVersion))
}

func (w *Writer) putMembers(m *Meta) error {
	for i := range m.Members {
		value, err := json.Marshal(&m.Members[i])
		if err != nil {
			return w.fail(fmt.Errorf("%w: member: %w", ErrMeta, err))
		}
		if err := w.put(membersBucket, memberKey(m.Members[i].ID), value); err != nil {
			return err
		}
	}
	for _, id := range m.Removed {
		if err := w.put(removedBucket, memberKey(id), []byte("removed")); err != nil {
			return err
		}
	}
	return nil
}

// putAlarms: an alarm is a key, without a value.
func (w *Writer) putAlarms(m *Meta) error {
	for _, a := range m.Alarms {
		if err := w.putMessage(alarmBucket, a, func(b []byte) ([]byte, []byte) { return b, nil }); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) putAuth(m *Meta) error {
	if m.Auth.Enabled {
		if err := w.put(authBucket, []byte(authEnabledKey), []byte{1}); err != nil {
			return err
		}
	}
	if m.Auth.Revision > 0 {
		if err := w.put(authBucket, []byte(authRevisionKey), number(m.Auth.Revision)); err != nil {
			return err
		}
	}
	for _, u := range m.Auth.Users {
		if err := w.putMessage(usersBucket, u, func(b []byte) ([]byte, []byte) { return u.Name, b }); err != nil {
			return err
		}
	}
	for _, r := range m.Auth.Roles {
		if err := w.putMessage(rolesBucket, r, func(b []byte) ([]byte, []byte) { return r.Name, b }); err != nil {
			return err
		}
	}
	return nil
}

// putMessage writes a message as the key and value that place makes of its bytes.
func (w *Writer) putMessage(bucket string, m proto.Message, place func([]byte) (key, value []byte)) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return w.fail(fmt.Errorf("%w: %s: %w", ErrMeta, bucket, err))
	}
	key, value := place(b)
	if len(key) == 0 {
		return w.fail(fmt.Errorf("%w: an empty key in %s", ErrMeta, bucket))
	}
	return w.put(bucket, key, value)
}

// putState writes the bucket meta, in the batch that is to be committed next.
func (w *Writer) putState(m *Meta) error {
	if err := w.begin(); err != nil {
		return err
	}
	if _, err := w.tx.CreateBucketIfNotExists([]byte(metaBucket)); err != nil {
		return w.fail(err)
	}
	state := map[string][]byte{confStateKey: m.ConfState, versionKey: []byte(m.Version)}
	if m.Compact >= 0 {
		state[scheduledKey] = appendRevision(nil, Revision{Main: m.Compact})
		state[finishedKey] = state[scheduledKey]
	}
	if m.Index > 0 { // etcd writes neither without an index
		state[indexKey] = number(m.Index)
		if m.Term > 0 {
			state[termKey] = number(m.Term)
		}
	}
	for key, value := range state {
		if len(value) == 0 {
			continue
		}
		if err := w.put(metaBucket, []byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

// number is how etcd writes ids and counters.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// memberKey is a member's id as etcd prints it.
func memberKey(id uint64) []byte { return strconv.AppendUint(nil, id, 16) }
