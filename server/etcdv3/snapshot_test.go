package etcdv3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog"
)

// snapshots makes snapshots of a file, or fails.
type snapshots struct {
	path string
	err  error
}

func (s snapshots) Open(context.Context) (*etcdfile.Stream, error) {
	if s.err != nil {
		return nil, s.err
	}
	return etcdfile.OpenStream(s.path)
}

// sentSnapshot is a client's end of a stream of a snapshot.
type sentSnapshot struct {
	grpc.ServerStream
	ctx  context.Context
	got  []*pb.SnapshotResponse
	fail error
	then func()
}

func (s *sentSnapshot) Context() context.Context { return s.ctx }

func (s *sentSnapshot) Send(r *pb.SnapshotResponse) error {
	s.got = append(s.got, r)
	if s.then != nil {
		s.then()
	}
	return s.fail
}

func snapshotServer(s snapshots) (*maintenanceServer, *bytes.Buffer) {
	logs := new(bytes.Buffer)
	return &maintenanceServer{Server: New(Options{Snapshots: s, Logger: slog.New(slog.NewTextHandler(logs, nil))})}, logs
}

// database is a file of some chunks and a bit.
func database(t *testing.T) (path string, content []byte) {
	t.Helper()
	path, content = filepath.Join(t.TempDir(), "db"), bytes.Repeat([]byte("0123456789abcdef"), (5*snapshotChunk+512)/16)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

// TestSnapshotStream: chunks that say how much is left, and the sha256 in a message of its own.
func TestSnapshotStream(t *testing.T) {
	path, content := database(t)
	m, _ := snapshotServer(snapshots{path: path})
	stream := &sentSnapshot{ctx: t.Context()}
	if err := m.Snapshot(&pb.SnapshotRequest{}, stream); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for i, r := range stream.got {
		got = append(got, r.Blob...)
		if want := max(len(content)-len(got), 0); r.RemainingBytes != uint64(want) || r.Version != etcdfile.StorageVersion {
			t.Errorf("message %d has %d bytes, %d left, version %s", i, len(r.Blob), r.RemainingBytes, r.Version)
		}
	}
	sum := sha256.Sum256(content)
	if len(stream.got) != 7 || !bytes.Equal(got, append(content, sum[:]...)) || !bytes.Equal(stream.got[6].Blob, sum[:]) {
		t.Errorf("%d messages of %d bytes", len(stream.got), len(got))
	}
}

// TestSnapshotStalls: a client that stops reading is given up and its file closed, a slow one is served; and there are not more than a few at once.
func TestSnapshotStalls(t *testing.T) {
	path, _ := database(t)
	synctest.Test(t, func(t *testing.T) {
		m, logs := snapshotServer(snapshots{path: path})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stalled := make(chan error, maxSnapshots)
		for range maxSnapshots {
			stream := &sentSnapshot{ctx: ctx, fail: context.Canceled}
			stream.then = func() {
				if stream.fail = nil; len(stream.got) == 3 {
					<-ctx.Done()
					stream.fail = ctx.Err()
				}
			}
			go func() { stalled <- m.Snapshot(&pb.SnapshotRequest{}, stream) }()
		}
		synctest.Wait()
		if err := m.Snapshot(&pb.SnapshotRequest{}, &sentSnapshot{ctx: t.Context()}); err != errManySnapshots {
			t.Errorf("one more: %v", err)
		}
		for range maxSnapshots {
			if err := <-stalled; err != errStalled {
				t.Error(err)
			}
		}
		cancel() // as gRPC does when a stream's handler has returned
		synctest.Wait()
		if n := len(m.sending); n != 0 || !strings.Contains(logs.String(), "does not read") {
			t.Errorf("%d are being sent, and the log has %s", n, logs)
		}
		slow := &sentSnapshot{ctx: t.Context(), then: func() { time.Sleep(2*snapshotPatience - time.Second) }}
		if err := m.Snapshot(&pb.SnapshotRequest{}, slow); err != nil || len(slow.got) != 7 {
			t.Errorf("a slow one: %v, %d messages", err, len(slow.got))
		}
		m.opts.Snapshots = snapshots{err: context.Canceled}
		for range maxSnapshots + 1 {
			if err := m.Snapshot(&pb.SnapshotRequest{}, slow); err == errManySnapshots {
				t.Error("what has failed counts")
			}
		}
	})
}

// TestSnapshotUnread: the stream of a client that does not read ends, and its file is closed, while the connection lasts.
func TestSnapshotUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 64<<20)); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Snapshots: snapshots{path: path}, Logger: slog.New(slog.DiscardHandler), MaxConcurrentStreams: 100})
	s.patience = 20 * time.Millisecond
	g := grpc.NewServer()
	pb.RegisterMaintenanceServer(g, &maintenanceServer{Server: s})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	defer g.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := pb.NewMaintenanceClient(conn)
	var streams []pb.Maintenance_SnapshotClient
	for range maxSnapshots {
		stream, err := client.Snapshot(t.Context(), &pb.SnapshotRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	for range maxSnapshots {
		s.sending <- struct{}{} // when there is room, because one was given up
	}
	for _, stream := range streams {
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
	}
}

// TestSnapshotErrors: of a file that cannot be made the answer says so, and the log; what fails otherwise has etcd's answers.
func TestSnapshotErrors(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/snapshots/db", Err: syscall.ENOSPC}
	for _, c := range []struct {
		err    error
		code   codes.Code
		text   string
		logged bool
	}{
		{fmt.Errorf("snapshot: %w", full), codes.ResourceExhausted, "no space left on device", true},
		{fmt.Errorf("snapshot: %w", &fs.PathError{Op: "write", Path: "db", Err: syscall.EDQUOT}), codes.ResourceExhausted, "quota", true},
		{fmt.Errorf("snapshot: %w", &fs.PathError{Op: "mkdir", Path: "/snapshots", Err: syscall.EROFS}), codes.Internal, "read-only", true},
		{fmt.Errorf("snapshot: %w: %w", sqllog.ErrStorage, drivers.ErrCorrupt), codes.Unavailable, "unhealthy", false},
		{fmt.Errorf("snapshot: %w", context.Canceled), codes.Canceled, "canceled", false},
		{fmt.Errorf("snapshot: %w", sqllog.ErrStopped), codes.Unavailable, "server stopped", false},
	} {
		m, logs := snapshotServer(snapshots{err: c.err})
		err := m.Snapshot(&pb.SnapshotRequest{}, &sentSnapshot{ctx: t.Context()})
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) || strings.Contains(logs.String(), "ERROR") != c.logged {
			t.Errorf("%v: %v, and the log has %q", c.err, err, logs)
		}
	}
}

// TestSnapshotStreamFails: a file that becomes shorter while it is sent, and a client that goes away.
func TestSnapshotStreamFails(t *testing.T) {
	path, _ := database(t)
	m, logs := snapshotServer(snapshots{path: path})
	stream := &sentSnapshot{ctx: t.Context(), then: func() {
		if err := os.Truncate(path, snapshotChunk); err != nil {
			t.Error(err)
		}
	}}
	if err := m.Snapshot(&pb.SnapshotRequest{}, stream); status.Code(err) != codes.Internal || len(stream.got) != 1 || !strings.Contains(logs.String(), "ERROR") {
		t.Errorf("%d messages, %v", len(stream.got), err)
	}
	path, _ = database(t)
	m, _ = snapshotServer(snapshots{path: path})
	gone := errors.New("gone")
	if err := m.Snapshot(&pb.SnapshotRequest{}, &sentSnapshot{ctx: t.Context(), fail: gone}); !errors.Is(err, gone) {
		t.Error(err)
	}
}
