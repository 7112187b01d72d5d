package etcdv3

import (
	"context"
	"log/slog"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/lessor"
	"github.com/keelson-io/keelson/watch"
)

// Backend is what the Maintenance API needs of the storage.
type Backend interface {
	// Size gives the bytes on disk and those of them in use.
	Size(ctx context.Context) (total, inUse int64, err error)
	// Defragment gives free space back.
	Defragment(ctx context.Context) error
}

// Snapshots makes snapshots.
type Snapshots interface {
	// Open makes one, of a moment after the call came. The caller closes it.
	Open(ctx context.Context) (*etcdfile.Stream, error)
}

// Compactor frees what compactions made unreachable.
type Compactor interface {
	// Compacted tells that there is something to free.
	Compacted()
	// Finish waits until everything that is free now has been removed.
	Finish(ctx context.Context) error
}

// Cluster tells who this server is.
type Cluster struct {
	ID     uint64
	Member uint64
	// Term gives the Raft term. Default: 0.
	Term    func() uint64
	Version string // etcd's version, as in Status
	// Members are those of the cluster that are there, Leader the one that Status names.
	Members func() []*pb.Member
	Leader  func() uint64
	// Update changes the peer URLs that Members shows of this member.
	Update func(ctx context.Context, peerURLs []string) error
	// Raft gives Status' index of the last entry of the Raft log, and of the last one applied. Nil where the log's positions are both.
	Raft func() (index, applied uint64)
	// Equal is set if the members are servers on one database, which come and go by being started and stopped.
	Equal bool
}

// Options configures a Server.
type Options struct {
	Store     *sqllog.Store
	Hub       *watch.Hub
	Lessor    *lessor.Lessor
	Backend   Backend
	Compactor Compactor
	Snapshots Snapshots
	Cluster   Cluster
	// Members are those of the cluster where the log has them; Cluster's Members, Update and Equal are of no
	// account then. Nil for a server that is alone, and for equal servers on one database.
	Members Members
	// Lead brings requests to the leader where another server may lead. Nil where none does.
	Lead Lead
	// ForMembers is set for the API on the peer port, which other members of the cluster use.
	ForMembers bool
	// Timeout is how long a request may take to find a leader. Required with Lead.
	Timeout time.Duration
	// StrictReconfigCheck refuses changes of Members that would cost the quorum: --strict-reconfig-check.
	StrictReconfigCheck bool
	// MaxLearners bounds the learners among Members: --max-learners.
	MaxLearners int
	// Learner tells whether this server is a learner, which answers little. Nil if it never is.
	Learner func() bool
	// Failure gives what keeps this server from its storage, as far as it knows, nil if nothing does. Default: Store's.
	Failure func() error
	// Healthy gives what does, after trying whether it still does. Nil: AlarmList has the alarms of the log alone.
	Healthy func(ctx context.Context) error
	// LeaderLost gives a channel that is closed when there has been no leader for so long that streams of clients that want one
	// are to end: three election timeouts, in etcd. Nil if there is always one.
	LeaderLost func() <-chan struct{}
	// Corrupted gives a channel that is closed while a CORRUPT alarm names this server, which then answers no requests for keys. Nil where the
	// store alone looks at that alarm.
	Corrupted func() <-chan struct{}
	Logger    *slog.Logger
	// MaxTxnOps and MaxRequestBytes bound requests: --max-txn-ops, --max-request-bytes.
	MaxTxnOps       int
	MaxRequestBytes int
	// QuotaBytes is the size at which the NOSPACE alarm is raised; 0 or below: never.
	QuotaBytes int64
	// ProgressInterval is the time between progress notifications of idle watches.
	ProgressInterval time.Duration
	// SlowRequest is the time from which on a unary request is logged as slow.
	SlowRequest time.Duration
	// MaxConcurrentStreams bounds the streams of one connection.
	MaxConcurrentStreams uint32
	// BcryptCost is the cost of hashing a password: --bcrypt-cost. Outside of bcrypt's bounds it is
	// bcrypt's default, as in etcd.
	BcryptCost int
	// Stopping, once closed, ends the watches and keep-alive streams, which end only with their clients
	// otherwise.
	Stopping <-chan struct{}
	// Observe is told of every finished unary call and stream, for metrics. Optional.
	Observe Observer
}

// Observer is told what the API does.
type Observer interface {
	Started(kind, method, clientVersion string)
	Handled(kind, method string, err error, took time.Duration)
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Started(string, string, string)               {}
func (nobody) Handled(string, string, error, time.Duration) {}

// Server implements etcd's services.
type Server struct {
	opts     Options
	quota    quota
	methods  map[string]method // for requests that other servers pass on
	sending  chan struct{}     // has a token for each snapshot that is made or sent
	patience time.Duration     // snapshotPatience
}

// streamWorkers is the number of goroutines kept for calls. More are started
// when these wait; those that stay have their stacks already.
const streamWorkers = 128

// grpcOverhead is what a message may be larger than a request.
const grpcOverhead = 512 << 10

// New makes a Server.
func New(opts Options) *Server {
	s := &Server{opts: opts, sending: make(chan struct{}, maxSnapshots), patience: snapshotPatience}
	if opts.Observe == nil {
		s.opts.Observe = nobody{}
	}
	if opts.Cluster.Term == nil {
		s.opts.Cluster.Term = func() uint64 { return 0 }
	}
	if opts.BcryptCost < bcrypt.MinCost || opts.BcryptCost > bcrypt.MaxCost {
		s.opts.BcryptCost = bcrypt.DefaultCost
	}
	s.methods = methodsOf(map[*grpc.ServiceDesc]any{
		&pb.KV_ServiceDesc: &kvServer{Server: s}, &pb.Lease_ServiceDesc: &leaseServer{Server: s}, &pb.Cluster_ServiceDesc: &clusterServer{Server: s},
		&pb.Maintenance_ServiceDesc: &maintenanceServer{Server: s}, &pb.Auth_ServiceDesc: &authServer{Server: s},
	})
	return s
}

// Register makes a gRPC server with all of etcd's services on it.
func Register(opts Options, extra ...grpc.ServerOption) *grpc.Server {
	return New(opts).Register(extra...)
}

// Register makes a gRPC server with all of etcd's services on it.
func (s *Server) Register(extra ...grpc.ServerOption) *grpc.Server {
	all := append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxRecvMsgSize(s.opts.MaxRequestBytes + grpcOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(s.opts.MaxConcurrentStreams),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	}, extra...)
	g := grpc.NewServer(all...)
	g.RegisterService(kvService(), &kvServer{Server: s})
	pb.RegisterWatchServer(g, &watchServer{Server: s})
	pb.RegisterLeaseServer(g, &leaseServer{Server: s})
	pb.RegisterClusterServer(g, &clusterServer{Server: s})
	pb.RegisterMaintenanceServer(g, &maintenanceServer{Server: s})
	pb.RegisterAuthServer(g, &authServer{Server: s})
	return g
}

// fill completes a header; a revision of 0 becomes the current one.
func (s *Server) fill(h *pb.ResponseHeader) *pb.ResponseHeader {
	if h == nil {
		h = &pb.ResponseHeader{}
	}
	h.ClusterId, h.MemberId, h.RaftTerm = s.opts.Cluster.ID, s.opts.Cluster.Member, s.opts.Cluster.Term()
	if h.Revision == 0 {
		h.Revision = s.opts.Store.Index().Rev
	}
	return h
}

// checkSize refuses a request that is larger than what the log takes.
func (s *Server) checkSize(request proto.Message) (size int, err error) {
	size = proto.Size(request)
	if size > s.opts.MaxRequestBytes {
		return 0, rpctypes.ErrGRPCRequestTooLarge
	}
	return size, nil
}

// commit sends a request through the log.
func (s *Server) commit(ctx context.Context, request proto.Message) (any, error) {
	size, err := s.checkSize(request)
	if err != nil {
		return nil, err
	}
	resp, err := s.opts.Store.Do(ctx, request, size)
	if err != nil {
		return nil, grpcError(err)
	}
	return resp, nil
}
