package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
)

var errDisk = errors.New("pwrite /var/lib/x: input/output error")

// TestExplain: who asks how a server is gets no words of the layers below, and etcd's where it has any.
func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		drivers.ErrNoLeader:      status.Convert(rpctypes.ErrGRPCNoLeader).Message(),
		drivers.ErrNoQuorum:      status.Convert(rpctypes.ErrGRPCTimeout).Message(),
		sqllog.ErrStopped:        status.Convert(rpctypes.ErrGRPCStopped).Message(),
		context.DeadlineExceeded: "context deadline exceeded",
		drivers.ErrNoSpace:       "no space is left",
		sqllog.ErrTimeout:        "has taken too long",
		sqllog.ErrStorage:        storageFails,
		drivers.ErrUncertain:     storageFails,
		drivers.ErrLocked:        storageFails,
	} {
		got := Explain(fmt.Errorf("append after 7: %w: %w", err, errDisk))
		if !strings.Contains(got, want) || strings.Contains(got, "append") || strings.Contains(got, "sqllog") || strings.Contains(got, errDisk.Error()) {
			t.Errorf("%v: %q", err, got)
		}
	}
	if got := Explain(errDisk); got != storageFails {
		t.Errorf("%v: %q", errDisk, got)
	}
}

// brokenBackend has a size that cannot be found out.
type brokenBackend struct{ Backend }

func (brokenBackend) Size(context.Context) (total, inUse int64, err error) { return 0, 0, errDisk }

// TestFullDisk: a server whose disk is full tells so in its status and in the list of alarms that its clients get, and not in the one for other members.
func TestFullDisk(t *testing.T) {
	store, err := sqllog.Open(t.Context(), sqllog.Options{Log: memory.NewStore().Open()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	trouble := fmt.Errorf("make a segment: %w", drivers.ErrNoSpace)
	s := New(Options{
		Store: store, Backend: fullBackend{}, MaxRequestBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler), SlowRequest: time.Hour,
		Cluster: Cluster{Member: 7, Leader: func() uint64 { return 7 }, Version: "3.7.0"},
		Failure: func() error { return trouble }, Healthy: func(context.Context) error { return trouble },
	})
	m := &maintenanceServer{Server: s}
	alarms := func(action pb.AlarmRequest_AlarmAction, about pb.AlarmType) string {
		t.Helper()
		resp, err := s.unary(t.Context(), &pb.AlarmRequest{Action: action, Alarm: about}, &grpc.UnaryServerInfo{FullMethod: pb.Maintenance_Alarm_FullMethodName},
			func(ctx context.Context, req any) (any, error) { return m.Alarm(ctx, req.(*pb.AlarmRequest)) })
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.(*pb.AlarmResponse).Alarms)
	}
	const get, none, full = pb.AlarmRequest_GET, "[]", "[memberID:7 alarm:NOSPACE]"
	check := func(when, got, want string) {
		t.Helper()
		if strings.Join(strings.Fields(got), " ") != want {
			t.Errorf("%s: the alarms are %s", when, got)
		}
	}
	check("all", alarms(get, pb.AlarmType_NONE), full)
	check("of this kind", alarms(get, pb.AlarmType_NOSPACE), full)
	check("of another kind", alarms(get, pb.AlarmType_CORRUPT), none)
	check("an answer to something else", alarms(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE), none)
	if n := len(store.Index().Alarms()); n != 0 {
		t.Errorf("the log has %d alarms", n)
	}
	if st, err := m.Status(t.Context(), nil); err != nil || !slices.Contains(st.Errors, Explain(drivers.ErrNoSpace)) {
		t.Errorf("the status is %v, %v", st, err)
	}
	s.opts.ForMembers = true
	check("for another member", alarms(get, pb.AlarmType_NONE), none)
	s.opts.ForMembers, trouble = false, errDisk
	check("another failure", alarms(get, pb.AlarmType_NONE), none)
	trouble = nil
	check("room again", alarms(get, pb.AlarmType_NONE), none)
	s.opts.Backend = brokenBackend{}
	if _, err := m.Status(t.Context(), nil); !errors.Is(err, rpctypes.ErrGRPCUnhealthy) {
		t.Errorf("no size: %v", err)
	}
}
