package history

import (
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Op is one request and what came of it.
type Op struct {
	Client int
	// Request is a RangeRequest, PutRequest, DeleteRangeRequest, TxnRequest, LeaseGrantRequest or LeaseRevokeRequest.
	Request proto.Message
	// Response is its answer, nil with an error or without an answer.
	Response proto.Message
	// Err is the server's error.
	Err error
	// Unknown means that there was no answer.
	Unknown bool
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
		answer = "no answer"
	}
	return fmt.Sprintf("client %d, %v to %v: %T{%v}: %s", o.Client, o.Begin, o.End, o.Request, o.Request, answer)
}

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
