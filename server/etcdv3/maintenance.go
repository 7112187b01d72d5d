package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog"
)

type maintenanceServer struct {
	*Server
	pb.UnsafeMaintenanceServer
}

func (s *maintenanceServer) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	total, inUse, err := s.opts.Backend.Size(ctx)
	if err != nil {
		return nil, grpcError(fmt.Errorf("%w: %w", sqllog.ErrStorage, err))
	}
	c := s.opts.Cluster
	ix := s.opts.Store.Index()
	resp := &pb.StatusResponse{
		Header:           s.fill(nil),
		Version:          c.Version,
		Leader:           c.Leader(),
		RaftIndex:        uint64(ix.End.Position),
		RaftAppliedIndex: uint64(ix.End.Position),
		RaftTerm:         c.Term(),
		DbSize:           total,
		DbSizeInUse:      inUse,
		DbSizeQuota:      max(s.opts.QuotaBytes, 0),
		StorageVersion:   StorageVersion,
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if c.Raft != nil {
		resp.RaftIndex, resp.RaftAppliedIndex = c.Raft()
	}
	if s.opts.Learner != nil {
		resp.IsLearner = s.opts.Learner()
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrNoLeader.Error())
	}
	for _, a := range ix.Alarms() {
		m := &pb.AlarmMember{MemberID: a.Member, Alarm: pb.AlarmType(a.Type)}
		resp.Errors = append(resp.Errors, m.String())
	}
	if err := s.failure(); err != nil {
		resp.Errors = append(resp.Errors, Explain(err))
	}
	return resp, nil
}

// failure gives what keeps this server from its storage, nil if nothing does.
func (s *Server) failure() error {
	if s.opts.Failure != nil {
		return s.opts.Failure()
	}
	return s.opts.Store.Failure()
}

// StorageVersion is the version of etcd's storage schema that this server's data answers to.
const StorageVersion = "3.7.0"

func (s *maintenanceServer) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	alarm := resp.(*pb.AlarmResponse)
	alarm.Header = s.fill(alarm.Header)
	return alarm, nil
}

// withOwn adds to the list of alarms, for clients of this server, a NOSPACE of its own if its disk is full: etcdctl's endpoint health asks for that list, and is to say what
// /health says. The alarm is not in the log, where it would keep all members from writing.
func (s *Server) withOwn(ctx context.Context, req, resp any) {
	r, ok := req.(*pb.AlarmRequest)
	list, _ := resp.(*pb.AlarmResponse)
	if !ok || list == nil || s.opts.Healthy == nil || s.opts.ForMembers || r.Action != pb.AlarmRequest_GET {
		return
	}
	if r.Alarm != pb.AlarmType_NONE && r.Alarm != pb.AlarmType_NOSPACE || !errors.Is(s.opts.Healthy(ctx), drivers.ErrNoSpace) {
		return
	}
	own := &pb.AlarmMember{MemberID: s.opts.Cluster.Member, Alarm: pb.AlarmType_NOSPACE}
	if !slices.ContainsFunc(list.Alarms, func(a *pb.AlarmMember) bool { return proto.Equal(a, own) }) {
		list.Alarms = append(list.Alarms, own)
	}
}

// Defragment gives back also what the last compaction has freed: who compacts, defragments and disarms the alarm in one script has to find room then.
func (s *maintenanceServer) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	s.opts.Logger.Info("starting defragment")
	if err := s.finishCompaction(ctx); err != nil && ctx.Err() == nil {
		s.opts.Logger.Warn("not all that compactions have freed was scrubbed before", "error", err)
	}
	if err := s.opts.Backend.Defragment(ctx); err != nil {
		return nil, grpcError(err)
	}
	s.opts.Logger.Info("finished defragment")
	return &pb.DefragmentResponse{}, nil
}

// finishCompaction takes half of the time there is at most: scrubbing may have to wait, for old reads or for a snapshot that is being made.
func (s *maintenanceServer) finishCompaction(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return s.opts.Compactor.Finish(ctx)
}

// Hash is for tests in etcd, over its whole file. Here it is the hash of the
// keys at the current revision.
func (s *maintenanceServer) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	h, err := s.opts.Store.HashKV(ctx, 0)
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.HashResponse{Header: s.fill(&pb.ResponseHeader{Revision: h.Current}), Hash: h.Sum}, nil
}

func (s *maintenanceServer) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	hash := s.opts.Store.HashKV
	if s.opts.ForMembers { // another member asks what this one has
		hash = s.opts.Store.HashHere
	}
	h, err := hash(ctx, r.Revision)
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.HashKVResponse{
		Header: s.fill(&pb.ResponseHeader{Revision: h.Current}),
		Hash:   h.Sum, CompactRevision: h.Compact, HashRevision: h.Revision,
	}, nil
}

// snapshotChunk is how much of a snapshot goes into one message, as in etcd.
const snapshotChunk = 32 << 10

const (
	// maxSnapshots is how many snapshots there are at once, since each takes room on the disk until its client has it.
	maxSnapshots = 4
	// snapshotPatience is how often is looked whether a client has taken anything of a snapshot. One that twice has not is given up.
	snapshotPatience = 30 * time.Second
)

var (
	errManySnapshots = status.Errorf(codes.ResourceExhausted, "keelson: this server makes and sends no more than %d snapshots at once: try again when one of them is done", maxSnapshots)
	errStalled       = status.Errorf(codes.DeadlineExceeded, "keelson: the client has taken nothing of the snapshot for %v", 2*snapshotPatience)
)

// Snapshot streams the database, and in a last message of its own the sha256 of it. A Send to a client that does not read waits for as long as the stream is there, and the
// stream ends with this function: so another goroutine sends.
func (s *maintenanceServer) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	select {
	case s.sending <- struct{}{}:
	default:
		return errManySnapshots
	}
	snap, err := s.opts.Snapshots.Open(stream.Context())
	if err != nil {
		<-s.sending
		return s.snapshotError(err)
	}
	var taken atomic.Int64 // messages
	done := make(chan error, 1)
	go func() {
		defer func() { <-s.sending }()
		defer snap.Close()
		done <- s.send(snap, stream, &taken)
	}()
	tick := time.NewTicker(s.patience)
	defer tick.Stop()
	for idle, last := 0, int64(0); idle < 2; idle++ {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
		if now := taken.Load(); now != last {
			idle, last = -1, now
		}
	}
	s.opts.Logger.Warn("a client does not read the database snapshot that it has asked for", "messages", taken.Load())
	return errStalled
}

// send sends a snapshot, and counts the messages that have gone out.
func (s *maintenanceServer) send(snap *etcdfile.Stream, stream pb.Maintenance_SnapshotServer, taken *atomic.Int64) error {
	start := time.Now()
	left := snap.Size() - etcdfile.HashSize
	s.opts.Logger.Info("sending database snapshot to client", "total-bytes", left, "storage-version", etcdfile.StorageVersion)
	for size := int64(0); ; {
		if size = min(left, snapshotChunk); size == 0 {
			size = etcdfile.HashSize
		}
		// Send does not wait until the message is written, so each has bytes of its own.
		chunk := make([]byte, size)
		if _, err := io.ReadFull(snap, chunk); err != nil {
			return s.snapshotError(fmt.Errorf("read the snapshot: %w", err))
		}
		last := left == 0
		left = max(left-size, 0)
		if err := stream.Send(&pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: chunk, Version: etcdfile.StorageVersion}); err != nil {
			return err
		}
		taken.Add(1)
		if last {
			s.opts.Logger.Info("successfully sent database snapshot to client", "total-bytes", snap.Size()-etcdfile.HashSize, "took", time.Since(start))
			return nil
		}
	}
}

// snapshotError answers who wanted a snapshot that could not be made or sent. That its file has no room is no matter of the store's: the alarm for that, and etcd's
// answers for a store that is full or fails, would mislead. etcd has no such file and so no answer of its own.
func (s *maintenanceServer) snapshotError(err error) error {
	var file *fs.PathError
	code := codes.OK
	switch {
	case errors.Is(err, sqllog.ErrStorage):
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = codes.ResourceExhausted
	case errors.As(err, &file), errors.Is(err, io.ErrUnexpectedEOF):
		code = codes.Internal
	}
	if code == codes.OK {
		return grpcError(err)
	}
	s.opts.Logger.Error("cannot make a database snapshot: see --snapshot-dir", "error", err)
	return status.Errorf(code, "keelson: the snapshot's file cannot be made on the server: %v", err)
}

// errSlowTransfer is etcd's answer for whoever did not wait for the new leader.
var errSlowTransfer = status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")

// MoveLeader has a member that votes lead. To move from the leader to the leader is nothing to do.
func (s *maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	leader := s.opts.Cluster.Leader()
	target := s.member(r.TargetID)
	switch {
	case s.opts.Cluster.Member != leader:
		return nil, rpctypes.ErrGRPCNotLeader
	case target == nil || target.IsLearner:
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	case r.TargetID == leader:
		return &pb.MoveLeaderResponse{}, nil
	case s.opts.Members == nil: // equal servers take turns by themselves
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	err := s.opts.Members.MoveLeader(ctx, r.TargetID)
	switch {
	case err != nil && ctx.Err() != nil, errors.Is(err, drivers.ErrNoQuorum):
		return nil, errSlowTransfer
	case err != nil:
		return nil, grpcError(err)
	}
	return &pb.MoveLeaderResponse{}, nil
}

// Downgrade answers that there is nothing to downgrade to: this server's data is not an etcd's of any
// version. Validating the version before the one it answers to succeeds, as in etcd.
func (s *maintenanceServer) Downgrade(_ context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if _, known := pb.DowngradeRequest_DowngradeAction_name[int32(r.Action)]; !known {
		return nil, status.Error(codes.Unknown, "etcdserver: unknown method")
	}
	now := *semver.New(s.opts.Cluster.Version)
	ok := &pb.DowngradeResponse{Header: s.fill(nil), Version: fmt.Sprintf("%d.%d", now.Major, now.Minor)}
	if r.Action == pb.DowngradeRequest_CANCEL {
		return ok, nil
	}
	target, err := semver.NewVersion(r.Version)
	if err != nil {
		target, err = semver.NewVersion(r.Version + ".0")
	}
	switch {
	case err != nil:
		return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
	case target.Major != now.Major || target.Minor != now.Minor-1 || r.Action != pb.DowngradeRequest_VALIDATE:
		return nil, rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	}
	return ok, nil
}
