package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Stand is what a restored log was found to have.
type Stand struct {
	Revision int64 // the current one
	Compact  int64 // the compact revision, -1 if there was no compaction
	Keys     int64 // that are there at Revision
	Rows     int64 // the changes of keys that the file has
	Leases   int64
	Hash     uint32 // what HashKV answers at Revision
}

// ErrDiffers says that what was read back is not what the file has.
var ErrDiffers = errors.New("what was restored differs from the file")

// Prove reads a log back that Write has made of a file with the same options: that it says what the file has, row by row, as a server on it will read it, and that no bit of
// it is another one than Write has made, by the ids of its batches. It reads the log twice, and uses memory for its index, as a server on it will. Nobody else
// may write to the log.
func Prove(ctx context.Context, log drivers.Log, f *etcdfile.File, o Options) (Stand, error) {
	p := prover{ctx: ctx, log: log, file: f, o: o}
	if o.Bump > 0 {
		r := mvcc.NewRestorer(0, func(e drivers.Entry) error {
			p.bump = append(p.bump, e)
			return nil
		})
		if err := r.Bump(f.Meta().Revision + o.Bump); err != nil {
			return Stand{}, err
		}
	}
	if err := p.load(); err != nil {
		return Stand{}, err
	}
	if err := p.rows(); err != nil {
		return Stand{}, err
	}
	if err := p.beside(); err != nil {
		return Stand{}, err
	}
	p.stand.Revision, p.stand.Compact, p.stand.Keys = p.last.Rev, p.last.Compact, p.last.Keys()
	return p.stand, nil
}

// prover compares a log with a file.
type prover struct {
	ctx  context.Context
	log  drivers.Log
	file *etcdfile.File
	o    Options

	bump   []drivers.Entry // what raises the revision: the file has no such rows
	raised int64           // the position of the first of these, once it is known
	judge  *mvcc.Index     // of the log without those
	last   *mvcc.Index     // of the whole log
	stand  Stand
}

func differs(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDiffers, fmt.Sprintf(format, args...))
}

// scan reads the whole log.
func (p *prover) scan(values bool, fn func([]drivers.Entry) error) error {
	if followed, ok := p.log.(drivers.Followed); ok {
		_, err := followed.Load(p.ctx, values, fn)
		return err
	}
	return p.log.Scan(p.ctx, drivers.ScanOptions{Values: values}, fn)
}

// bumps tells whether an entry is one of those that raise the revision: they stand together, in their order.
func (p *prover) bumps(e *drivers.Entry) bool {
	if p.raised == 0 && len(p.bump) > 0 && same(e, &p.bump[0]) {
		p.raised = e.Position
	}
	n := e.Position - p.raised
	return p.raised > 0 && n >= 0 && n < int64(len(p.bump)) && same(e, &p.bump[n])
}

func same(a, b *drivers.Entry) bool { return a.Kind == b.Kind && bytes.Equal(a.Meta, b.Meta) }

// load makes the indexes.
func (p *prover) load() error {
	judge, last := mvcc.NewIndex().Edit(false), (*mvcc.Builder)(nil)
	next := int64(1)
	err := p.scan(false, func(entries []drivers.Entry) error {
		for i := range entries {
			e := &entries[i]
			if e.Position != next {
				return differs("the log has no position %d", next)
			}
			next++
			bumps := p.bumps(e)
			if bumps && last == nil {
				last = judge.Index(drivers.End{}).Edit(false)
			}
			if last != nil {
				if err := last.Load(entries[i : i+1]); err != nil {
					return err
				}
			}
			if bumps {
				continue
			}
			if err := judge.Load(entries[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	judge.Settle()
	p.judge = judge.Index(drivers.End{})
	if p.last = p.judge; last != nil {
		last.Settle()
		p.last = last.Index(drivers.End{})
	}
	m := p.file.Meta()
	rev, compact := m.Revision, m.Compact
	if p.judge.Rev != rev || p.judge.Compact != compact {
		return differs("it is at revision %d, compacted at %d, and the file at %d, compacted at %d", p.judge.Rev, p.judge.Compact, rev, compact)
	}
	if p.o.Bump > 0 {
		rev += p.o.Bump
		compact = rev
	}
	if p.last.Rev != rev || p.last.Compact != compact {
		return differs("it is at revision %d, compacted at %d, and was to be at %d, compacted at %d", p.last.Rev, p.last.Compact, rev, compact)
	}
	return nil
}

// rows compares the changes of keys one after the other.
func (p *prover) rows() error {
	next, stop := iter.Pull2(p.file.Rows())
	defer stop()
	d, h, again := mvcc.NewDump(p.judge), p.last.NewHasher(p.last.Rev), &writer{}
	compare := func(r *mvcc.Row) error {
		want, err, more := next()
		switch {
		case err != nil:
			return err
		case !more:
			return differs("revision %d.%d is not in the file", r.Main, r.Sub)
		case r.Main != want.Main || int64(r.Sub) != want.Sub || r.Tombstone != want.Tombstone || !bytes.Equal(r.KeyValue, want.KeyValue):
			return differs("row %d of the file, revision %v, came back as revision %d.%d, or with another content", p.stand.Rows+1, want.Revision, r.Main, r.Sub)
		}
		p.stand.Rows++
		return nil
	}
	err := p.scan(true, func(entries []drivers.Entry) error {
		for i := range entries {
			e := &entries[i]
			if err := h.Add(e); err != nil {
				return err
			}
			if err := again.add(*e); err != nil {
				return err
			}
			if p.bumps(e) {
				continue
			}
			if err := d.Add(e, compare); err != nil {
				return err
			}
		}
		if p.o.Proved != nil {
			p.o.Proved(p.stand.Rows)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if row, err, more := next(); more || err != nil {
		return errors.Join(err, differs("revision %v of the file did not come back", row.Revision))
	}
	p.stand.Hash = h.Sum()
	if err := again.flush(); err != nil {
		return err
	}
	b, err := p.log.ReadIndex(p.ctx)
	if err == nil && b.End != again.end {
		err = differs("its entries are not those that were written")
	}
	return err
}

// beside compares what is no key, and the members with those that were to be recorded.
func (p *prover) beside() error {
	want, got := beside(p.file.Meta()), p.last.Beside()
	p.stand.Leases = int64(len(got.Leases))
	for _, what := range []struct {
		name string
		same bool
	}{
		{"leases", p.sameLeases(want.Leases)},
		{"alarms", slices.EqualFunc(got.Alarms, want.Alarms, func(a, b mvcc.Alarm) bool { return a.Member == b.Member && a.Type == b.Type })},
		{"users", slices.EqualFunc(got.Users, want.Users, func(a, b *authpb.User) bool { return proto.Equal(a, b) })},
		{"roles", slices.EqualFunc(got.Roles, want.Roles, func(a, b *authpb.Role) bool { return proto.Equal(a, b) })},
		{"auth revision", got.AuthRev == want.AuthRev},
		{"members", p.sameMembers()},
	} {
		if !what.same {
			return differs("%s", what.name)
		}
	}
	return nil
}

func (p *prover) sameLeases(want []mvcc.Lease) bool {
	for i := range want {
		w := &want[i]
		if l := p.last.Lease(w.ID); l == nil || l.TTL != w.TTL || l.Remaining != w.Remaining {
			return false
		}
	}
	return p.stand.Leases == int64(len(want))
}

func (p *prover) sameMembers() bool {
	var want []*pb.Member
	if p.o.Members != nil {
		want = p.o.Members.Members
	}
	for i, m := range want {
		if got := p.last.MemberByID(m.ID); got == nil || !proto.Equal(got.Member, m) || got.Founder() != (i == 0) || got.ClusterID != p.o.Members.ClusterID {
			return false
		}
	}
	return len(p.last.Members()) == len(want)
}
