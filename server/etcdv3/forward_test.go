package etcdv3

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
)

// leaders are other servers that lead, one after the other, and then one that answers with a text of its own. Each answers with an error.
type leaders struct {
	err     error // of finding one
	answers []error
	asked   int
}

var errLast = status.Error(codes.Aborted, "the last leader was asked")

func (l *leaders) Leader(context.Context) (Leader, error) { return l, l.err }

func (l *leaders) Answer(context.Context, string, []byte) (Answer, error) {
	if l.asked++; l.asked <= len(l.answers) {
		return Answer{}, l.answers[l.asked-1]
	}
	return Answer{Err: errLast}, nil
}

func (l *leaders) Renew(context.Context, int64) (ttl, position int64, err error) {
	return 0, 0, errLast
}

// TestForwardTwice: what was not answered by one leader is asked of the next if it has certainly done nothing, or changes nothing, and of no other one otherwise.
func TestForwardTwice(t *testing.T) {
	for name, test := range map[string]struct {
		method string
		leaders
		want error
	}{
		"not sent":         {method: pb.KV_Put_FullMethodName, leaders: leaders{answers: []error{ErrNotSent, ErrNotSent}}, want: errLast},
		"a write is lost":  {method: pb.KV_Put_FullMethodName, leaders: leaders{answers: []error{ErrLost}}, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		"a grant is lost":  {method: pb.Lease_LeaseGrant_FullMethodName, leaders: leaders{answers: []error{ErrLost}}, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		"an alarm is lost": {method: pb.Maintenance_Alarm_FullMethodName, leaders: leaders{answers: []error{ErrLost}}, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		"a read is lost":   {method: pb.Lease_LeaseTimeToLive_FullMethodName, leaders: leaders{answers: []error{ErrLost, ErrLost}}, want: errLast},
		"it stands still":  {method: pb.KV_Put_FullMethodName, leaders: leaders{err: drivers.ErrNoLeader}, want: rpctypes.ErrGRPCNoLeader},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{opts: Options{Lead: &test.leaders, Timeout: time.Hour, Cluster: Cluster{Leader: func() uint64 { return 2 }}}}
			_, err := s.answer(t.Context(), &pb.PutRequest{}, test.method, func(context.Context, any) (any, error) {
				t.Error("it is answered here")
				return nil, nil
			})
			if !errors.Is(err, test.want) {
				t.Error(err)
			}
			if test.err == nil && test.asked != len(test.answers)+1 && errors.Is(test.want, errLast) || test.asked > 1 && !errors.Is(test.want, errLast) {
				t.Errorf("%d leaders were asked", test.asked)
			}
		})
	}
}

// TestStandingStill: what a server that stands still says to clients. Only of a request that it had taken it is not known what becomes of it.
func TestStandingStill(t *testing.T) {
	for _, test := range []struct{ err, want error }{
		{sqllog.ErrHalted, rpctypes.ErrGRPCTimeoutDueToLeaderFail},
		{drivers.ErrNoLeader, rpctypes.ErrGRPCNoLeader},
		{errors.Join(drivers.ErrUncertain, drivers.ErrNoLeader), rpctypes.ErrGRPCTimeout},
	} {
		if err := grpcError(test.err); !errors.Is(err, test.want) {
			t.Errorf("%v: %v", test.err, err)
		}
	}
}

// TestAnswerWithoutLeader: to another server, which can ask the next leader, one that hears of none says no more than that it does not lead.
func TestAnswerWithoutLeader(t *testing.T) {
	f := newFake(t, 3)
	f.leader = 0
	o := f.server(true).opts
	o.SlowRequest, o.Logger = time.Hour, slog.New(slog.DiscardHandler)
	wants := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	var err error
	if o.Store, err = sqllog.Open(t.Context(), sqllog.Options{Log: memory.NewStore().Open()}); err != nil {
		t.Fatal(err)
	}
	if a := New(o).Answer(wants, pb.KV_Put_FullMethodName, nil); !a.NotLeader || a.Err != nil {
		t.Errorf("%+v", a)
	}
}
