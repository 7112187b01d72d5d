package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/snapshot"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// take gives all that is at a place, as an etcd database file. It is the place's own, or made under the temporary directory.
func (m *migration) take(ctx context.Context, p Place) (*etcdfile.File, error) {
	switch p.Kind {
	case Snapshot:
		return etcdfile.Open(p.Where, etcdfile.Options{})
	case EtcdDir:
		f, err := etcdfile.Open(filepath.Join(p.Where, etcdDatabase), etcdfile.Options{})
		switch {
		case errors.Is(err, etcdfile.ErrInUse):
			return nil, fmt.Errorf("%w: stop the etcd, or name its endpoint, http://… or https://…", err)
		case err != nil:
			return nil, err
		}
		if n := len(f.Meta().Members); n > 1 {
			m.notes = append(m.notes, fmt.Sprintf("it is the data of one of %d members, and has what that one had: another may have been further. The endpoint of a cluster that runs has everything", n))
		}
		if m.IgnoreWAL {
			return f, nil
		}
		if err := checkWAL(cmp.Or(m.WALDir, filepath.Join(p.Where, etcdWAL)), f.Meta().Index); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	path := m.temp()
	var err error
	var acknowledged int64
	switch p.Kind {
	case Endpoint:
		acknowledged, err = m.download(ctx, p, path)
	case KeelsonDir, Datastore:
		err = m.dump(ctx, p, path)
	case Kine:
		err = m.fromKine(ctx, p, path)
	default:
		err = noPlace("%v", p)
	}
	if err != nil {
		return nil, err
	}
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		return nil, err
	}
	err = Reaches(f.Meta().Revision, acknowledged)
	if err == nil && p.Kind == Kine {
		err = m.seen.equals(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// dump makes a file of a Keelson's log.
func (m *migration) dump(ctx context.Context, p Place, path string) (err error) {
	o := m.member(p)
	clustered := false
	if p.Kind == KeelsonDir {
		o.WALDir = m.WALDir
		if clustered, err = raft.Clustered(server.RaftDir(o)); err != nil {
			return err
		}
		if clustered && !m.IgnoreWAL { // before a database is opened, which a member that runs has locked
			return behindRaft(p, "in "+server.RaftDir(o))
		}
	}
	m.Progress("reading", 0, 0)
	log, err := server.OpenDatastore(ctx, o, m.Logger, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	store, err := sqllog.Open(ctx, sqllog.Options{Log: log, Logger: m.Logger, Publish: func(*mvcc.Index, []*mvcc.Event) {}})
	if err != nil {
		return err
	}
	clustered = clustered || server.OfRaft(log, store.Index())
	switch {
	case clustered && !m.IgnoreWAL:
		return behindRaft(p, "not in "+server.RaftDir(o)+" (--wal-dir?)")
	case clustered:
		m.notes = append(m.notes, "it is the data of a member of a cluster, and has what is in that one's database: its Raft log, and other members, may have more. The endpoint of a cluster that runs has everything")
	}
	maker := snapshot.New(snapshot.Options{
		Store: store, Dir: m.dir, Logger: m.Logger,
		// A file must speak for some entry of a Raft log; whoever restores it begins one of its own.
		Raft: func() (term, index uint64) { return 1, uint64(max(store.Index().End.Position, 1)) },
	})
	return maker.Write(ctx, path)
}

// behindRaft refuses a member's database. where tells of its Raft log.
func behindRaft(p Place, where string) error {
	return fmt.Errorf("%w: %s is that of a member of a cluster, whose Raft log, %s, may have more than its database, and other members too: name the endpoint of a member that runs, or take what is there with --ignore-wal", ErrBehind, p.Where, where)
}
