// Package restore makes a store of an etcd's database file: a snapshot of Keelson's or of etcd's, or a member's own file.
//
// Dir and Database write it beside its place (Write), read it back from the database and compare it with the file (Prove), and put it at its
// place at once. So nothing is there of a restore that failed or was killed, and of two to the same place one is refused. Writing needs memory for a batch; reading
// back needs it for the index, as a server on the store does.
package restore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Options are how a file is taken over.
type Options struct {
	// Bump raises the revision by so much behind what the file has, and compacts there: then no client's cache of what came after the snapshot is
	// taken for what comes. 0: the revision goes on where the file ends. See etcdutl's --bump-revision and --mark-compacted.
	Bump int64
	// Members found the cluster that the store is of. Nil: the first server that is started on it does.
	Members *mvcc.Bootstrap
	// Progress is told now and then how many rows have been written. Optional.
	Progress func(rows int64)
	// Proved is told now and then how many rows have been read back and found to be the file's. Optional.
	Proved func(rows int64)
}

// ErrAuth says that a file has authentication enabled: a server that cannot ask for passwords would show everything to everybody.
var ErrAuth = errors.New("the snapshot has authentication enabled, which this version does not support: its keys would be open to every client")

// Batches end with so many entries or bytes.
const (
	batchEntries = 5_000
	batchBytes   = 4 << 20
)

// Write appends all that a file has to a log that is empty, and gives the end of it. What the file's members were is left out, as in etcd: they are those of another
// cluster. The same file and options make the same batches, so that members that restore the same have the same log. After an error the log is good for nothing.
func Write(ctx context.Context, log drivers.Log, f *etcdfile.File, o Options) (drivers.End, error) {
	m := f.Meta()
	if m.Auth.Enabled {
		return drivers.End{}, ErrAuth
	}
	w := &writer{ctx: ctx, log: log, o: o}
	r := mvcc.NewRestorer(m.Compact, w.add)
	for row, err := range f.Rows() {
		if err != nil {
			return drivers.End{}, err
		}
		if err := r.Add(&mvcc.Row{Main: row.Main, Sub: int32(row.Sub), Tombstone: row.Tombstone, KeyValue: row.KeyValue}); err != nil {
			return drivers.End{}, err
		}
		w.rows++
	}
	if o.Bump > 0 {
		if err := r.Bump(m.Revision + o.Bump); err != nil {
			return drivers.End{}, err
		}
	}
	if err := r.Finish(beside(m)); err != nil {
		return drivers.End{}, err
	}
	if err := w.members(); err != nil {
		return drivers.End{}, err
	}
	err := w.flush()
	return w.end, err
}

// writer appends entries in batches.
type writer struct {
	ctx   context.Context
	log   drivers.Log // nil if it is just to tell where a log with these entries ends
	o     Options
	end   drivers.End
	batch []drivers.Entry
	bytes int
	rows  int64
}

// add takes in the next entry, and keeps it.
func (w *writer) add(e drivers.Entry) error {
	w.batch = append(w.batch, e)
	w.bytes += len(e.Meta) + len(e.Value)
	if len(w.batch) < batchEntries && w.bytes < batchBytes {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	if w.o.Progress != nil {
		w.o.Progress(w.rows)
	}
	return nil
}

func (w *writer) flush() error {
	if len(w.batch) == 0 {
		return nil
	}
	b := &drivers.Batch{ID: w.id(), Time: time.Now(), Entries: w.batch}
	if w.log != nil {
		if err := w.log.Append(w.ctx, w.end, b); err != nil {
			return err
		}
	}
	w.end = drivers.End{Position: w.end.Position + int64(len(w.batch)), Batch: b.ID}
	w.batch, w.bytes = w.batch[:0], 0
	return nil
}

// id is made of everything up to the end of the batch.
func (w *writer) id() (id drivers.BatchID) {
	h := sha256.New()
	h.Write(w.end.Batch[:])
	var head []byte
	for i := range w.batch {
		e := &w.batch[i]
		head = binary.AppendUvarint(append(head[:0], e.Kind), uint64(len(e.Meta)))
		head = binary.AppendUvarint(head, uint64(len(e.Value)))
		h.Write(head)
		h.Write(e.Meta)
		h.Write(e.Value)
	}
	copy(id[:], h.Sum(nil))
	return id
}

// members records those of the cluster that is to begin here.
func (w *writer) members() error {
	if w.o.Members == nil {
		return nil
	}
	none := mvcc.NewIndex().Edit(false).Index(drivers.End{})
	b, results := mvcc.Evaluate(none, mvcc.Env{}, []any{w.o.Members})
	if results[0].Err != nil {
		return fmt.Errorf("members: %w", results[0].Err)
	}
	for _, e := range b.Entries() {
		if err := w.add(e); err != nil {
			return err
		}
	}
	return nil
}

// beside is what a file has beside rows and members.
func beside(m *etcdfile.Meta) *mvcc.Beside {
	s := &mvcc.Beside{Users: m.Auth.Users, Roles: m.Auth.Roles, AuthRev: max(int64(m.Auth.Revision), 1)}
	for _, l := range m.Leases {
		s.Leases = append(s.Leases, mvcc.Lease{ID: l.ID, TTL: l.TTL, Remaining: l.Remaining})
	}
	for _, a := range m.Alarms {
		s.Alarms = append(s.Alarms, mvcc.Alarm{Member: a.MemberID, Type: int32(a.Alarm)})
	}
	return s
}
