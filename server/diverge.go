package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/server/peer/peerpb"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

const (
	// logCheck is how often the leader compares what the members have applied.
	logCheck = 10 * time.Second
	// logHashes is at how many positions at most.
	logHashes = 64
	// hashTime is how long another member may take to read all of its database.
	hashTime = time.Minute
)

// watchData has the leader compare the members, until ctx ends: what they have applied, and, as the options say, what their databases hold.
func (c *cluster) watchData(ctx context.Context) error {
	select {
	case <-c.grown:
	case <-ctx.Done():
		return nil
	}
	o := &c.node.opts
	logs := time.NewTicker(logCheck)
	defer logs.Stop()
	var databases, compactions <-chan time.Time
	if o.CorruptCheckTime > 0 {
		t := time.NewTicker(o.CorruptCheckTime)
		defer t.Stop()
		databases = t.C
	}
	if o.FeatureGates.Enabled("CompactHashCheck") {
		t := time.NewTicker(o.CompactHashCheckTime)
		defer t.Stop()
		compactions = t.C
	}
	var checked int64 // the last compaction after which the databases were compared
	for {
		check := c.compareDatabases
		select {
		case <-ctx.Done():
			return nil
		case <-logs.C:
			check = c.compareLogs
		case <-databases:
		case <-compactions:
			if c.node.store.Index().Compact <= checked {
				continue
			}
		}
		if _, _, leading, _ := c.log.Leader(); !leading {
			continue
		}
		compacted := c.node.store.Index().Compact
		complete, err := check(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			c.logger.Warn("the members could not be compared", "error", err)
		case complete:
			checked = compacted
		}
	}
}

// others asks all other members something, at the same time, and waits until ask has returned for each. Who cannot be reached is passed over.
func (c *cluster) others(ask func(id uint64, conn *grpc.ClientConn)) (count int) {
	self, net := c.member(), c.connections()
	var asking sync.WaitGroup
	for _, m := range c.node.store.Index().Members() {
		if m.ID == self {
			continue
		}
		count++
		if conn, err := net.Conn(m.ID); err == nil {
			asking.Go(func() { ask(m.ID, conn) })
		}
	}
	asking.Wait()
	return count
}

// member is this member's id.
func (c *cluster) member() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id.Member
}

// compareLogs compares the hashes of what the members have applied. Who has none of the last positions in memory is far behind, and passed over.
func (c *cluster) compareLogs(ctx context.Context) (complete bool, err error) {
	_, term, _, _ := c.log.Leader()
	hashes := map[int64]map[uint64]uint64{}
	r := new(peerpb.HashesRequest)
	for _, h := range c.log.Hashes(logHashes) {
		r.Positions = append(r.Positions, h.Position)
		hashes[h.Position] = map[uint64]uint64{c.member(): h.Sum}
	}
	asking, cancel := context.WithTimeout(ctx, c.node.opts.RequestTimeout())
	defer cancel()
	var mu sync.Mutex
	c.others(func(id uint64, conn *grpc.ClientConn) {
		resp, err := peerpb.NewPeerClient(conn).Hashes(asking, r)
		if err != nil {
			c.logger.Debug("a member does not tell its hashes", "member", fmt.Sprintf("%x", id), "error", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, h := range resp.GetHashes() {
			if at := hashes[h.GetPosition()]; at != nil {
				at[id] = h.GetHash()
			}
		}
	})
	at, answers := common(hashes)
	return false, c.accuse(ctx, term, verdict(answers, votersOf(c.node.store.Index())), "position", at, "hashes", shown(answers))
}

// content is what a member says of its database.
type content struct {
	sum uint32
	// ahead is set if it claims what is not in the log.
	ahead bool
}

// compareDatabases compares the hashes of what the members' databases hold at one revision. Who has another compact revision, or is not there
// yet, is passed over; complete tells that none was.
func (c *cluster) compareDatabases(ctx context.Context) (complete bool, err error) {
	_, term, _, _ := c.log.Leader()
	own, err := c.node.store.HashKV(ctx, 0)
	if err != nil {
		return false, err
	}
	responses := map[uint64]*pb.HashKVResponse{}
	var mu sync.Mutex
	count := c.others(func(id uint64, conn *grpc.ClientConn) {
		resp, err := hashOf(ctx, conn, own.Revision)
		if err != nil {
			c.logger.Warn("a member's database is not compared", "member", fmt.Sprintf("%x", id), "revision", own.Revision, "error", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		responses[id] = resp
	})
	now, err := c.node.store.Linearizable(ctx)
	if err != nil {
		return false, err
	}
	answers := map[uint64]content{c.member(): {sum: own.Sum}}
	for id, r := range responses {
		switch ahead := r.GetHeader().GetRevision() > now.Rev || r.CompactRevision > now.Compact; {
		case ahead:
			answers[id] = content{ahead: true}
		case r.CompactRevision == own.Compact:
			answers[id] = content{sum: r.Hash}
		}
	}
	complete = len(answers) == count+1
	c.logger.Info("compared the members' databases", "revision", own.Revision, "compact_revision", own.Compact, "members", len(answers))
	return complete, c.accuse(ctx, term, verdict(answers, votersOf(now)), "revision", own.Revision, "compact_revision", own.Compact, "hashes", shown(answers))
}

func hashOf(ctx context.Context, conn *grpc.ClientConn, revision int64) (*pb.HashKVResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, hashTime)
	defer cancel()
	return pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
}

// accuse raises the CORRUPT alarm for members, if this one still leads as it did when it began to look.
func (c *cluster) accuse(ctx context.Context, term uint64, members []uint64, found ...any) error {
	var errs []error
	for _, id := range members {
		if _, now, leading, _ := c.log.Leader(); !leading || now != term {
			return nil
		}
		if raised(c.node.store.Index(), id) {
			continue
		}
		text := "a member's data differ from those of the majority: raising the CORRUPT alarm for it"
		if id == everyone {
			text = "the members' data differ, and no majority agrees: raising the CORRUPT alarm for all"
		}
		c.logger.Error(text, append([]any{"member", fmt.Sprintf("%x", id)}, found...)...)
		alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_CORRUPT}
		if _, err := c.node.store.Do(ctx, alarm, 0); err != nil {
			errs = append(errs, fmt.Errorf("raise the CORRUPT alarm: %w", err))
		}
	}
	return errors.Join(errs...)
}

// raised tells whether the CORRUPT alarm of this very member is raised.
func raised(ix *mvcc.Index, id uint64) bool {
	for _, a := range ix.Alarms() {
		if a.Member == id && a.Type == int32(pb.AlarmType_CORRUPT) {
			return true
		}
	}
	return false
}

// shown gives answers as a log shows them.
func shown[A any](answers map[uint64]A) map[string]string {
	out := map[string]string{}
	for id, a := range answers {
		out[fmt.Sprintf("%x", id)] = fmt.Sprintf("%+v", a)
	}
	return out
}

// initialCheck compares, as etcd's does, the database of a member that has one with the others', before it takes part in anything. Who cannot
// be reached, has compacted otherwise or is not as far is passed over.
func (c *cluster) initialCheck(ctx context.Context) error {
	store := c.node.store
	if !c.node.opts.FeatureGates.Enabled("InitialCorruptCheck") || len(store.Index().Members()) == 0 {
		return nil
	}
	self := fmt.Sprintf("%x", c.member())
	own, err := store.HashHere(ctx, 0)
	if err != nil {
		return fmt.Errorf("%s failed to fetch hash (%w)", self, err)
	}
	var mu sync.Mutex
	differ, same := 0, 0
	c.others(func(id uint64, conn *grpc.ClientConn) {
		resp, err := hashOf(ctx, conn, own.Revision)
		mu.Lock()
		defer mu.Unlock()
		text := ""
		switch {
		case err != nil:
			text = unanswered(err)
		case resp.Hash == own.Sum:
			same++
			return
		case resp.CompactRevision != own.Compact:
			text = "found different compact revision values from remote peer"
		default:
			differ++
			text = "found different hash values from remote peer"
		}
		c.logger.Warn(text, append(describeHash(own), "remote_peer", fmt.Sprintf("%x", id), "remote_revision", resp.GetHeader().GetRevision(),
			"remote_compact_revision", resp.GetCompactRevision(), "remote_hash", resp.GetHash(), "error", err)...)
	})
	if differ > 0 {
		return fmt.Errorf("%s found data inconsistency with peers", self)
	}
	c.logger.Info("initial corruption checking passed; no corruption", append(describeHash(own), "member", self, "peers", same)...)
	return nil
}

func describeHash(h sqllog.Hash) []any {
	return []any{"revision", h.Revision, "compact_revision", h.Compact, "hash", h.Sum}
}

// unanswered says why another member gave no hash.
func unanswered(err error) string {
	switch {
	case errors.Is(err, rpctypes.ErrGRPCFutureRev):
		return "cannot fetch hash from slow remote peer"
	case errors.Is(err, rpctypes.ErrGRPCCompacted):
		return "cannot fetch hash from remote peer; local member is behind"
	}
	return "cannot fetch hash from remote peer"
}
