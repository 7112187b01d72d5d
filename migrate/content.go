package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
)

// Content is what a file has, and what a target has to know of it.
type Content struct {
	Revision int64 `json:"revision"`
	Compact  int64 `json:"compact"` // -1 if never
	Rows     int64 `json:"rows"`    // changes that are kept
	Keys     int64 `json:"keys"`    // that live
	Bytes    int64 `json:"bytes"`   // of all rows
	Leases   int64 `json:"leases"`
	Users    int64 `json:"users"`
	Roles    int64 `json:"roles"`
	Alarms   int64 `json:"alarms"`

	hash     string
	shared   int64 // changes that are not the only one of their revision
	deletes  int64
	versions int64 // changes that a target without versions shows otherwise: all that are no first one
	auth     bool
	live     map[string]etcdfile.Revision // the last change of each key that lives
	leases   map[int64]int64              // the TTL of each lease
	spent    bool                         // a lease has run for a while
}

func (c *Content) digest() Digest {
	return Digest{Revision: c.Revision, Rows: c.Rows, Keys: c.Keys, Hash: c.hash}
}

// survey goes through a file once. It has the living keys in memory then. rows is how many there should be, or 0.
func (m *migration) survey(ctx context.Context, step string, f *etcdfile.File, rows int64) (*Content, error) {
	meta := f.Meta()
	c := &Content{
		Revision: meta.Revision, Compact: meta.Compact, Leases: int64(len(meta.Leases)), Users: int64(len(meta.Auth.Users)), Roles: int64(len(meta.Auth.Roles)),
		Alarms: int64(len(meta.Alarms)), auth: meta.Auth.Enabled, live: map[string]etcdfile.Revision{}, leases: map[int64]int64{},
	}
	for _, l := range meta.Leases {
		c.leases[l.ID] = l.TTL
		c.spent = c.spent || l.Remaining > 0
	}
	h := sha256.New()
	var last int64
	for row, err := range f.Rows() {
		if err == nil && c.Rows%1024 == 0 {
			err = ctx.Err()
			m.Progress(step, c.Rows, rows)
		}
		if err != nil {
			return nil, err
		}
		c.Rows++
		c.Bytes += int64(len(row.KeyValue))
		if !row.Tombstone || row.Main > meta.Compact { // a tombstone at the compact revision is for watches only
			if row.Main == last {
				c.shared++
			}
			last = row.Main
		}
		hashRow(h, &row)
		if row.Marker() {
			continue
		}
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(row.KeyValue, &kv); err != nil {
			return nil, fmt.Errorf("the row of revision %v: %w", row.Revision, err)
		}
		if row.Tombstone {
			c.deletes++
			delete(c.live, string(kv.Key))
			continue
		}
		if kv.Version > 1 {
			c.versions++
		}
		c.live[string(kv.Key)] = row.Revision
	}
	c.Keys = int64(len(c.live))
	if err := hashMeta(h, meta); err != nil {
		return nil, err
	}
	c.hash = hex.EncodeToString(h.Sum(nil))
	return c, nil
}

func hashRow(h hash.Hash, row *etcdfile.Row) {
	var head [25]byte
	binary.BigEndian.PutUint64(head[0:], uint64(row.Main))
	binary.BigEndian.PutUint64(head[8:], uint64(row.Sub))
	binary.BigEndian.PutUint64(head[16:], uint64(len(row.KeyValue)))
	if row.Tombstone {
		head[24] = 1
	}
	h.Write(head[:])
	h.Write(row.KeyValue)
}

// hashMeta adds what belongs to the whole: not members, whose cluster is another one in each place, nor what a file says of Raft.
func hashMeta(h hash.Hash, m *etcdfile.Meta) error {
	fmt.Fprintf(h, "compact %d revision %d auth %v %d\n", max(m.Compact, 0), m.Revision, m.Auth.Enabled, max(m.Auth.Revision, 1))
	var lines []string
	for _, l := range m.Leases {
		lines = append(lines, fmt.Sprintf("lease %d %d %d", l.ID, l.TTL, l.Remaining))
	}
	for _, a := range m.Alarms {
		lines = append(lines, fmt.Sprintf("alarm %d %d", a.MemberID, a.Alarm))
	}
	message := func(kind string, msg proto.Message) error {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
		lines = append(lines, fmt.Sprintf("%s %x", kind, b))
		return err
	}
	for _, u := range m.Auth.Users {
		if err := message("user", u); err != nil {
			return err
		}
	}
	for _, r := range m.Auth.Roles {
		if err := message("role", r); err != nil {
			return err
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Fprintln(h, line)
	}
	return nil
}
