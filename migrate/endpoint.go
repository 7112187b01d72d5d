package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
)

// A transaction has at most so many changes and bytes, below what etcd takes by default.
const (
	txnChanges = 100
	txnBytes   = 1 << 20
)

// pageKeys is how many keys are read back at once.
const pageKeys = 200

// errOpen says that a target would show to everybody what the source shows to users.
var errOpen = errors.New("authentication is enabled in the source, and the target has none")

// endpointTarget is a running server.
type endpointTarget struct {
	*migration
	had   int64           // keys before
	kept  map[int64]int64 // the TTLs of the leases that have another there than in the source, which was told
	alive *keeper         // from write to the end of prove
}

func (t *endpointTarget) dial(ctx context.Context) (*conn, error) {
	return t.TargetClient.dial(ctx, t.To.Where)
}

func (t *endpointTarget) vacant(ctx context.Context) (err error) {
	c, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	// kine's headers name no cluster. It takes no transactions but those of Kubernetes.
	if s, err := pb.NewMaintenanceClient(c).Status(c.with(ctx), &pb.StatusRequest{}); err == nil && s.GetHeader().GetClusterId() == 0 {
		return fmt.Errorf("%v is a kine, which can be given a store only as a whole: %s", t.To, kineAdvice)
	}
	all, err := pb.NewKVClient(c).Range(c.with(ctx), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	switch {
	case err != nil:
		return err
	case all.Count > 0 && !t.Merge:
		return fmt.Errorf("%w: %v has %d keys: --merge adds to them, and overwrites those of the same name", ErrNotEmpty, t.To, all.Count)
	}
	t.had = all.Count
	return nil
}

func (t *endpointTarget) plan(ctx context.Context, c *Content, p *Plan) error {
	if c.auth && t.TargetClient.User == "" {
		return fmt.Errorf("%w: give the target users and roles, enable authentication there, and name one that may write to it", errOpen)
	}
	p.Kept = append(p.Kept, "every key that lives, with its value")
	if c.Leases > 0 {
		p.Kept = append(p.Kept, "leases with their ids and TTLs")
	}
	p.Lost = append(p.Lost, "revisions, create revisions and versions: a running server gives every key new ones")
	if gone := c.Rows - c.Keys; gone > 0 && !t.History {
		p.Lost = append(p.Lost, fmt.Sprintf("the history: %d changes that are no key's last one (--history makes them all, in order)", gone))
	}
	if c.spent {
		p.Lost = append(p.Lost, "what is left of leases: each begins anew")
	}
	if err := t.foreign(ctx, c); err != nil {
		return err
	}
	if len(t.kept) > 0 {
		p.Lost = append(p.Lost, "the TTLs of leases that the target has already, with another: "+differences(c.leases, t.kept))
	}
	if c.Users+c.Roles > 0 {
		p.Lost = append(p.Lost, "users and roles")
	}
	if c.Alarms > 0 {
		p.Lost = append(p.Lost, "alarms")
	}
	if t.had > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("the target has %d keys already: those of the same name are overwritten, and the others stay", t.had))
	}
	p.Notes = append(p.Notes, "to keep everything, migrate --to snapshot:FILE and restore that: with etcdutl snapshot restore FILE for etcd, or migrate --to dir:PATH for Keelson",
		"nothing must write to the target meanwhile; if it is broken off, run it again with --merge")
	return nil
}

func (t *endpointTarget) write(ctx context.Context, f *etcdfile.File, c *Content) (err error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	t.alive = keepAlive(ctx, conn)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.alive.end())
		}
	}()
	if err := t.grant(ctx, conn, c); err != nil {
		return err
	}
	w := &txns{ctx: ctx, conn: conn, leases: c.leases, keys: map[string]struct{}{}}
	var n, last int64
	for row, err := range f.Rows() {
		if err != nil {
			return err
		}
		if n++; n%256 == 0 {
			t.Progress("writing", n, c.Rows)
		}
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(row.KeyValue, &kv); err != nil {
			return fmt.Errorf("the row of revision %v: %w", row.Revision, err)
		}
		if row.Marker() || !t.History && c.live[string(kv.Key)] != row.Revision {
			continue
		}
		// With its history each revision is a transaction of its own.
		if t.History && row.Main != last {
			if err := w.flush(); err != nil {
				return err
			}
		}
		last = row.Main
		if err := w.add(&row, &kv); err != nil {
			return err
		}
	}
	return w.flush()
}

// foreign finds the leases that are there with another TTL.
func (t *endpointTarget) foreign(ctx context.Context, c *Content) (err error) {
	if !t.Merge || len(c.leases) == 0 {
		return nil
	}
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ttls, err := t.ttls(ctx, conn, c)
	if err != nil {
		return err
	}
	maps.DeleteFunc(ttls, func(id, ttl int64) bool { return ttl == 0 || ttl == c.leases[id] })
	t.kept = ttls
	return nil
}

// granted gives the TTL that a lease was granted with, or 0 if there is none.
func (c *conn) granted(ctx context.Context, id int64) (int64, error) {
	resp, err := pb.NewLeaseClient(c).LeaseTimeToLive(c.with(ctx), &pb.LeaseTimeToLiveRequest{ID: id})
	if err != nil {
		return 0, fmt.Errorf("look at lease %x: %w", id, err)
	}
	return resp.GrantedTTL, nil
}

// differences tells of the leases that have another TTL than they should, or of the first of many.
func differences(want, got map[int64]int64) string {
	const most = 5
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(got)) {
		switch got[id] {
		case want[id]:
		case 0:
			texts = append(texts, fmt.Sprintf("lease %x has ended", id))
		default:
			texts = append(texts, fmt.Sprintf("lease %x has %d s and not %d s", id, got[id], want[id]))
		}
	}
	if n := len(texts); n > most {
		texts = append(texts[:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(texts, ", ")
}

// grant makes the leases, and tells of those that get another TTL than they should, before there is a key. Nobody is asked: a running server is written to
// only if what is lost was accepted, as something always is.
func (t *endpointTarget) grant(ctx context.Context, conn *conn, c *Content) error {
	told := t.kept
	t.kept = map[int64]int64{}
	others := map[int64]int64{}
	var n int64
	for id, want := range c.leases {
		t.Progress("granting leases", n, c.Leases)
		n++
		ttl, err := t.grantOne(ctx, conn, &pb.LeaseGrantRequest{ID: id, TTL: want})
		if err != nil {
			return fmt.Errorf("grant lease %x: %w", id, err)
		}
		t.alive.add(id, ttl)
		if ttl != want {
			t.kept[id] = ttl
		}
		if ttl != want && ttl != told[id] {
			others[id] = ttl
		}
	}
	if len(others) > 0 && t.Lost != nil {
		t.Lost("the TTLs of leases that the target gives another: " + differences(c.leases, others))
	}
	return nil
}

// grantOne gives the TTL of a lease that is granted, or is there already.
func (t *endpointTarget) grantOne(ctx context.Context, c *conn, r *pb.LeaseGrantRequest) (int64, error) {
	for {
		resp, err := pb.NewLeaseClient(c).LeaseGrant(c.with(ctx), r)
		if !t.Merge || !errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist) {
			return resp.GetTTL(), err
		}
		if ttl, err := c.granted(ctx, r.ID); ttl != 0 || err != nil {
			return ttl, err
		}
		// It has ended since.
	}
}

// txns gathers changes into transactions.
type txns struct {
	ctx    context.Context
	conn   *conn
	leases map[int64]int64
	ops    []*pb.RequestOp
	bytes  int
	keys   map[string]struct{} // of ops: etcd has no key twice in a transaction
}

func (w *txns) add(row *etcdfile.Row, kv *mvccpb.KeyValue) error {
	_, twice := w.keys[string(kv.Key)]
	if size := len(row.KeyValue); twice || len(w.ops) == txnChanges || len(w.ops) > 0 && w.bytes+size > txnBytes {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if row.Tombstone {
		w.ops = append(w.ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: kv.Key}}})
	} else {
		put := &pb.PutRequest{Key: kv.Key, Value: kv.Value}
		if _, ok := w.leases[kv.Lease]; ok { // that of an earlier change may be gone
			put.Lease = kv.Lease
		}
		w.ops = append(w.ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	w.bytes += len(row.KeyValue)
	w.keys[string(kv.Key)] = struct{}{}
	return nil
}

func (w *txns) flush() error {
	if len(w.ops) == 0 {
		return nil
	}
	_, err := pb.NewKVClient(w.conn).Txn(w.conn.with(w.ctx), &pb.TxnRequest{Success: w.ops})
	if err != nil {
		return fmt.Errorf("a transaction of %d changes and %d bytes: %w", len(w.ops), w.bytes, errors.New(status.Convert(err).Message()))
	}
	w.ops, w.bytes = nil, 0
	clear(w.keys)
	return nil
}

// prove compares what lives. The revisions are those of either side, and no part of it.
func (t *endpointTarget) prove(ctx context.Context, f *etcdfile.File, c *Content) (proof Proof, err error) {
	proof.Of = "keys that live, their values and leases, and the leases' TTLs"
	defer func() {
		if told := t.alive.end(); err != nil {
			err = errors.Join(err, told)
		}
	}()
	var source, back liveSum
	for row, err := range f.Rows() {
		if err != nil {
			return proof, err
		}
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(row.KeyValue, &kv); err != nil {
			return proof, err
		}
		if len(kv.Key) > 0 && c.live[string(kv.Key)] == row.Revision {
			if _, ok := c.leases[kv.Lease]; !ok {
				kv.Lease = 0
			}
			source.add(&kv)
		}
	}
	want := maps.Clone(c.leases)
	maps.Copy(want, t.kept)
	source.leases(want)
	proof.Source = source.digest()
	conn, err := t.dial(ctx)
	if err != nil {
		return proof, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	err = conn.all(ctx, func(kv *mvccpb.KeyValue) {
		if _, ours := c.live[string(kv.Key)]; ours || !t.Merge {
			back.add(kv)
		} else {
			proof.Others++
		}
		if back.n%256 == 0 {
			t.Progress("reading the target back", back.n, source.n)
		}
	})
	if err != nil {
		return proof, err
	}
	ttls, err := t.ttls(ctx, conn, c)
	if err != nil {
		return proof, err
	}
	back.leases(ttls)
	proof.Target = back.digest()
	if text := differences(want, ttls); text != "" {
		return proof, fmt.Errorf("%w: %s", ErrDiffers, text)
	}
	return proof, nil
}

// ttls asks for the TTLs that the source's leases have there, 0 of one that has ended.
func (t *endpointTarget) ttls(ctx context.Context, conn *conn, c *Content) (map[int64]int64, error) {
	ttls := map[int64]int64{}
	for id := range c.leases {
		t.Progress("looking at the target's leases", int64(len(ttls)), c.Leases)
		ttl, err := conn.granted(ctx, id)
		if err != nil {
			return nil, err
		}
		ttls[id] = ttl
	}
	return ttls, nil
}

// all reads all keys as of one revision.
func (c *conn) all(ctx context.Context, fn func(*mvccpb.KeyValue)) error {
	r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: pageKeys}
	for {
		resp, err := pb.NewKVClient(c).Range(c.with(ctx), r)
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			fn(kv)
		}
		if !resp.More {
			return nil
		}
		if len(resp.Kvs) == 0 {
			return io.ErrUnexpectedEOF
		}
		if r.Revision == 0 {
			r.Revision = resp.Header.Revision // of the first page, for all
		}
		r.Key = append(resp.Kvs[len(resp.Kvs)-1].Key, 0)
	}
}

// liveSum is a hash over keys and leases, in whatever order they come.
type liveSum struct {
	sum [sha256.Size]byte
	n   int64
}

func (s *liveSum) add(kv *mvccpb.KeyValue) {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(kv.Key)))
	b = append(b, kv.Key...)
	b = binary.BigEndian.AppendUint64(b, uint64(kv.Lease))
	s.mix(append(b, kv.Value...))
	s.n++
}

// leases adds the TTLs of leases.
func (s *liveSum) leases(ttls map[int64]int64) {
	for id, ttl := range ttls {
		b := binary.BigEndian.AppendUint64(nil, math.MaxUint64) // the length of no key
		s.mix(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(id)), uint64(ttl)))
	}
}

func (s *liveSum) mix(b []byte) {
	one := sha256.Sum256(b)
	for i := range s.sum {
		s.sum[i] ^= one[i]
	}
}

func (s *liveSum) digest() Digest {
	return Digest{Rows: s.n, Keys: s.n, Hash: hex.EncodeToString(s.sum[:])}
}
