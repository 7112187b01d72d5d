package etcdfile

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strconv"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// state is what a file is found to have.
type state struct {
	meta      Meta
	scheduled int64 // of a compaction; 0 if there is none
	last      int64 // main revision of the last row
}

func newState() *state { return &state{meta: Meta{Compact: -1}} }

// take takes in an element of a bucket other than key. What this package does not know is passed over.
func (s *state) take(bucket string, e element) error {
	switch bucket {
	case metaBucket:
		return s.takeMeta(e)
	case leaseBucket:
		return s.takeLease(e)
	case alarmBucket:
		a := &pb.AlarmMember{}
		s.meta.Alarms = append(s.meta.Alarms, a)
		return unmarshal(e.key, a)
	case clusterBucket:
		if string(e.key) == clusterVersionKey {
			s.meta.ClusterVersion = string(e.value)
		}
	case membersBucket:
		return s.takeMember(e)
	case removedBucket:
		id, err := parseMember(e.key)
		s.meta.Removed = append(s.meta.Removed, id)
		return err
	case authBucket, usersBucket, rolesBucket:
		return s.takeAuth(bucket, e)
	}
	return nil
}

func (s *state) takeMeta(e element) (err error) {
	switch string(e.key) {
	case scheduledKey, finishedKey:
		r, err := parseRevision(e.value)
		if string(e.key) == scheduledKey {
			s.scheduled = r.Main
		} else {
			s.meta.Compact = r.Main
		}
		return err
	case indexKey:
		s.meta.Index, err = parseNumber(e.value)
	case termKey:
		s.meta.Term, err = parseNumber(e.value)
	case confStateKey:
		s.meta.ConfState = bytes.Clone(e.value)
		if !json.Valid(e.value) {
			return damaged("a conf state that is not JSON")
		}
	case versionKey:
		s.meta.Version = string(e.value)
	}
	return err
}

func (s *state) takeLease(e element) error {
	id, err := parseNumber(e.key)
	if err != nil {
		return err
	}
	l, err := parseLease(e.value)
	if err != nil || l.ID != int64(id) {
		return damaged("no lease at %x", e.key)
	}
	s.meta.Leases = append(s.meta.Leases, l)
	return nil
}

func (s *state) takeMember(e element) error {
	id, err := parseMember(e.key)
	if err != nil {
		return err
	}
	m := Member{ID: id}
	if err := json.Unmarshal(e.value, &m); err != nil || m.ID != id {
		return damaged("no member at %q", e.key)
	}
	s.meta.Members = append(s.meta.Members, m)
	return nil
}

func parseMember(key []byte) (uint64, error) {
	id, err := strconv.ParseUint(string(key), 16, 64)
	if err != nil {
		return 0, damaged("%q is no member's id", key)
	}
	return id, nil
}

func (s *state) takeAuth(bucket string, e element) (err error) {
	a := &s.meta.Auth
	switch {
	case bucket == usersBucket:
		u := &authpb.User{}
		a.Users = append(a.Users, u)
		return unmarshal(e.value, u)
	case bucket == rolesBucket:
		r := &authpb.Role{}
		a.Roles = append(a.Roles, r)
		return unmarshal(e.value, r)
	case string(e.key) == authEnabledKey:
		a.Enabled = bytes.Equal(e.value, []byte{1})
	case string(e.key) == authRevisionKey:
		a.Revision, err = parseNumber(e.value)
	}
	return err
}

func unmarshal(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return damaged("%T: %v", m, err)
	}
	return nil
}

func parseNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, damaged("%x is no number", b)
	}
	return binary.BigEndian.Uint64(b), nil
}
