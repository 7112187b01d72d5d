// Package snapshot makes etcd's database file of what a store has: what Maintenance.Snapshot streams, and what `etcdutl snapshot restore`, or an etcd
// by it, starts from.
//
// The file is made whole before the first byte of it goes out, so its size is known and no reader of the log waits for a client. It is made in a directory of
// its own under Options.Dir, and takes about as much room as the live data and the history that is not compacted; what a crash leaves there is removed by the next New.
package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Open makes a snapshot of a moment after the call came. It waits for another one that is being made. Its file has no name any more and is gone when it is closed.
func (m *Maker) Open(ctx context.Context) (*etcdfile.Stream, error) {
	stream, _, err := m.Take(ctx)
	return stream, err
}

// Take is Open, and tells the last revision that the snapshot has.
func (m *Maker) Take(ctx context.Context) (_ *etcdfile.Stream, revision int64, _ error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	start := time.Now()
	if err := os.MkdirAll(m.o.Dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("snapshot: %w", err)
	}
	dir, err := os.MkdirTemp(m.o.Dir, prefix)
	if err != nil {
		return nil, 0, fmt.Errorf("snapshot: %w", err)
	}
	stream, revision, err := m.make(ctx, filepath.Join(dir, "db"))
	if rerr := os.RemoveAll(dir); rerr != nil {
		m.o.Logger.Warn("a snapshot's file could not be removed", "path", dir, "error", rerr)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("snapshot: %w", err)
	}
	m.o.Logger.Info("made a database snapshot", "total-bytes", stream.Size(), "took", time.Since(start))
	return stream, revision, nil
}

// Write makes a snapshot as a file at a path where there is none. It has no hash yet.
func (m *Maker) Write(ctx context.Context, path string) error {
	stream, _, err := m.make(ctx, path)
	if err == nil {
		err = stream.Close()
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

func (m *Maker) make(ctx context.Context, path string) (_ *etcdfile.Stream, revision int64, _ error) {
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
		return func(r *mvcc.Row) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: r.Main, Sub: int64(r.Sub)}, Tombstone: r.Tombstone, KeyValue: r.KeyValue})
		}, nil
	})
	if err != nil {
		return nil, 0, err
	}
	meta, err := m.meta(state)
	if err != nil {
		return nil, 0, err
	}
	if err := w.Finish(meta); err != nil {
		return nil, 0, err
	}
	stream, err := etcdfile.OpenStream(path)
	return stream, state.Rev, err
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
