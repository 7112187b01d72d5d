// Package snapshot makes etcd's database file of what a store has: what Maintenance.Snapshot streams, and what `etcdutl snapshot restore`, or an etcd
// by it, starts from.
//
// The file is made whole before the first byte of it goes out, so its size is known and no reader of the log waits for a client. It is made in a directory of
// its own under Options.Dir, and takes about as much room as the live data and the history that is not compacted; what a crash leaves there is removed by the next New.
package snapshot

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Store is what snapshots are made of.
type Store interface {
	// Snapshot is sqllog.Store's.
	Snapshot(ctx context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error)
}

// Options configures a Maker. All but Members are required.
type Options struct {
	Store Store
	// Dir is where files are made. It is made if it is not there.
	Dir string
	// Members gives the members of the cluster where the log does not have them.
	Members func() []*pb.Member
	// Raft gives the term and index that a file of now speaks for, as in Status.
	Raft   func() (term, index uint64)
	Logger *slog.Logger
}

// Maker makes snapshots, one at a time.
type Maker struct {
	o    Options
	turn chan struct{} // has a token while a file is made
}

// prefix begins the names of the directories in which files are made.
const prefix = "snapshot-"

// New gives a Maker, and removes what a crash has left. Two of them must not have one directory.
func New(o Options) *Maker {
	left, _ := filepath.Glob(filepath.Join(o.Dir, prefix+"*"))
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			o.Logger.Warn("an unfinished snapshot could not be removed", "path", dir, "error", err)
		}
	}
	return &Maker{o: o, turn: make(chan struct{}, 1)}
}

// Dir is where files are made.
func (m *Maker) Dir() string { return m.o.Dir }

// Open makes a snapshot of a moment after the call came. It waits for another one that is being made. Its file has no name any more and is gone when it is closed.
func (m *Maker) Open(ctx context.Context) (*etcdfile.Stream, error) {
	f, err := m.take(ctx)
	return f.stream, err
}

// ErrAltered says that a file has not got what was written to it.
var ErrAltered = errors.New("snapshot: what was read back is not what was written")

// Take is Open, reads the whole file back, and tells the last revision that it has. The sha256 that a snapshot ends with is made as it is read, and so of whatever has become of the file.
func (m *Maker) Take(ctx context.Context) (_ *etcdfile.Stream, revision int64, _ error) {
	f, err := m.take(ctx)
	if err != nil {
		return nil, 0, err
	}
	if err := f.check(ctx); err != nil {
		return nil, 0, errors.Join(err, f.stream.Close())
	}
	return f.stream, f.revision, nil
}

func (m *Maker) take(ctx context.Context) (file, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return file{}, ctx.Err()
	}
	start := time.Now()
	if err := os.MkdirAll(m.o.Dir, 0o700); err != nil {
		return file{}, fmt.Errorf("snapshot: %w", err)
	}
	dir, err := os.MkdirTemp(m.o.Dir, prefix)
	if err != nil {
		return file{}, fmt.Errorf("snapshot: %w", err)
	}
	f, err := m.make(ctx, filepath.Join(dir, "db"))
	if rerr := os.RemoveAll(dir); rerr != nil {
		m.o.Logger.Warn("a snapshot's file could not be removed", "path", dir, "error", rerr)
	}
	if err != nil {
		return file{}, fmt.Errorf("snapshot: %w", err)
	}
	m.o.Logger.Info("made a database snapshot", "total-bytes", f.stream.Size(), "took", time.Since(start))
	return f, nil
}

// file is one that was made.
type file struct {
	stream   *etcdfile.Stream
	revision int64
	sum      rowSum // of what was written
}

// check reads it back.
func (f *file) check(ctx context.Context) error {
	sum := newRowSum()
	meta, err := f.stream.Check(func(r etcdfile.Row) error {
		sum.add(r)
		return ctx.Err()
	})
	switch {
	case err != nil:
		return fmt.Errorf("snapshot: %w", err)
	case sum.n != f.sum.n || sum.Sum64() != f.sum.Sum64() || meta.Revision != f.revision:
		return fmt.Errorf("%w: %d rows up to revision %d, and not %d up to %d, or others", ErrAltered, sum.n, meta.Revision, f.sum.n, f.revision)
	}
	return nil
}

// rowSum sums up rows.
type rowSum struct {
	hash.Hash64
	n int64
}

func newRowSum() rowSum { return rowSum{Hash64: crc64.New(crc64.MakeTable(crc64.ECMA))} }

func (s *rowSum) add(r etcdfile.Row) {
	var head [25]byte
	binary.BigEndian.PutUint64(head[0:], uint64(r.Main))
	binary.BigEndian.PutUint64(head[8:], uint64(r.Sub))
	binary.BigEndian.PutUint64(head[16:], uint64(len(r.KeyValue)))
	if r.Tombstone {
		head[24] = 1
	}
	s.Write(head[:]) // which does not fail
	s.Write(r.KeyValue)
	s.n++
}

// Write makes a snapshot as a file at a path where there is none. It has no hash yet.
func (m *Maker) Write(ctx context.Context, path string) error {
	f, err := m.make(ctx, path)
	if err == nil {
		err = f.stream.Close()
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

func (m *Maker) make(ctx context.Context, path string) (f file, _ error) {
	var w *etcdfile.Writer
	defer func() {
		if w != nil {
			_ = w.Close() // what counts is Finish
		}
	}()
	state, err := m.o.Store.Snapshot(ctx, func() (func(*mvcc.Row) error, error) {
		var err error
		if w != nil {
			if err = errors.Join(w.Close(), os.RemoveAll(path)); err != nil {
				return nil, err
			}
		}
		if w, err = etcdfile.Create(path); err != nil {
			return nil, err
		}
		f.sum = newRowSum()
		return func(r *mvcc.Row) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			row := etcdfile.Row{Revision: etcdfile.Revision{Main: r.Main, Sub: int64(r.Sub)}, Tombstone: r.Tombstone, KeyValue: r.KeyValue}
			f.sum.add(row)
			return w.Add(row)
		}, nil
	})
	if err != nil {
		return f, err
	}
	meta, err := m.meta(state)
	if err != nil {
		return f, err
	}
	if err := w.Finish(meta); err != nil {
		return f, err
	}
	f.stream, err = etcdfile.OpenStream(path)
	f.revision = state.Rev
	return f, err
}

// meta is what a file has beside its rows.
func (m *Maker) meta(state *mvcc.Index) (*etcdfile.Meta, error) {
	term, index := m.o.Raft()
	meta := &etcdfile.Meta{
		Compact: state.Compact, Revision: state.Rev, Term: term, Index: index,
		Version: etcdfile.StorageVersion, ClusterVersion: etcdfile.StorageVersion,
		Auth: etcdfile.Auth{Revision: uint64(state.AuthRev)},
	}
	members := mvcc.Messages(state.Members())
	if m.o.Members != nil {
		members = m.o.Members()
	}
	var conf confState
	for _, one := range members {
		meta.Members = append(meta.Members, etcdfile.Member{
			ID: one.ID, Name: one.Name, PeerURLs: one.PeerURLs, ClientURLs: one.ClientURLs, IsLearner: one.IsLearner,
		})
		if one.IsLearner {
			conf.Learners = append(conf.Learners, one.ID)
		} else {
			conf.Voters = append(conf.Voters, one.ID)
		}
	}
	for _, gone := range state.RemovedMembers() {
		meta.Removed = append(meta.Removed, gone.ID)
	}
	for l := range state.Leases() {
		meta.Leases = append(meta.Leases, etcdfile.Lease{ID: l.ID, TTL: l.TTL, Remaining: l.Remaining})
	}
	for _, a := range state.Alarms() {
		meta.Alarms = append(meta.Alarms, &pb.AlarmMember{MemberID: a.Member, Alarm: pb.AlarmType(a.Type)})
	}
	for _, u := range state.Users() {
		meta.Auth.Users = append(meta.Auth.Users, u.User)
	}
	for _, r := range state.Roles() {
		meta.Auth.Roles = append(meta.Auth.Roles, r.Role)
	}
	var err error
	meta.ConfState, err = json.Marshal(conf)
	return meta, err
}

// confState is Raft's configuration as etcd writes it in JSON.
type confState struct {
	Voters    []uint64 `json:"voters"`
	Learners  []uint64 `json:"learners,omitempty"`
	AutoLeave bool     `json:"auto_leave"`
}
