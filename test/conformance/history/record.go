package history

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Op is one request and what came of it.
type Op struct {
	Client int
	// Server is the number of the connection that was used.
	Server int
	// Request is a RangeRequest, PutRequest, DeleteRangeRequest, TxnRequest, LeaseGrantRequest, LeaseRevokeRequest
	// or CompactionRequest.
	Request proto.Message
	// Response is its answer, nil with an error or without an answer.
	Response proto.Message
	// Err is the server's error.
	Err error
	// Unknown means that there was no answer.
	Unknown bool
	// Late means that there was none in the time that there was for it.
	Late bool
	// Begin and End are moments of one clock. Without an answer End is the moment from which on the
	// request cannot be executed any more.
	Begin, End time.Duration
}

func (o *Op) String() string {
	answer := fmt.Sprint(o.Response)
	if o.Err != nil {
		answer = o.Err.Error()
	}
	if o.Unknown {
		answer = "no answer: " + answer
	}
	return fmt.Sprintf("client %d at server %d, %v to %v: %T{%v}: %s", o.Client, o.Server, o.Begin, o.End, o.Request, o.Request, answer)
}

// Serializable says whether a request may be answered from the past: reads that say so, and as etcd has it, a
// transaction without any operation.
func (o *Op) Serializable() bool {
	switch r := o.Request.(type) {
	case *pb.RangeRequest:
		return r.Serializable
	case *pb.TxnRequest:
		return !slices.ContainsFunc(slices.Concat(r.Success, r.Failure), func(op *pb.RequestOp) bool { return !op.GetRequestRange().GetSerializable() })
	}
	return false
}

// Revision is that of the answer's header, 0 without one.
func (o *Op) Revision() int64 { return o.header().GetRevision() }

// header returns the answer's header, nil without one.
func (o *Op) header() *pb.ResponseHeader {
	if r, ok := o.Response.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return r.GetHeader()
	}
	return nil
}

// Recorder collects requests. Its methods may be called concurrently.
type Recorder struct {
	start time.Time

	mu   sync.Mutex
	ops  []*Op
	open []*Op // without an answer, of the present server process
}

// NewRecorder begins a recording now.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Now is the moment on the recording's clock.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

func (r *Recorder) add(op *Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
	if op.Unknown {
		r.open = append(r.open, op)
	}
}

// Do sends an op's request, waits for the answer so long, and records both. It returns false, and records
// nothing, if the request was never sent, since there was no connection.
func (r *Recorder) Do(ctx context.Context, conn grpc.ClientConnInterface, op *Op, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	method, response := methodOf(op.Request)
	var sentTo peer.Peer
	op.Begin = r.Now()
	err := conn.Invoke(ctx, method, op.Request, response, grpc.Peer(&sentTo))
	op.End = r.Now()
	switch status.Code(err) {
	case codes.OK:
		op.Response = response
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.Unknown:
		op.Err, op.Unknown = err, true
		op.Late = op.End-op.Begin >= patience
		if sentTo.Addr == nil && !op.Late {
			return false
		}
	default:
		op.Err = err
	}
	r.add(op)
	return true
}

// Served says that a server that was started again serves: what had no answer before is executed or never will be.
func (r *Recorder) Served() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range r.open {
		op.End = r.Now()
	}
	r.open = nil
}

// Ops returns what was recorded. No recording may be under way.
func (r *Recorder) Ops() []*Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops
}
