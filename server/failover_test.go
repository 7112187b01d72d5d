package server

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/test/pg"
)

// TestFailover: a server whose database has lost commits that it had served answers nothing, but is not restarted for that; one that is
// started anew goes on with what is there.
func TestFailover(t *testing.T) {
	primary := pg.Run(t, pg.Options{})
	proxy, err := pg.StartProxy(primary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	n, stop := startShared(t, proxy.URL("postgres"))
	put := func(value string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := n.store.Do(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte(value)}, 1)
		return err
	}
	if err := put("kept"); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Close() })
	if err := errors.Join(standby.Stop(t.Context()), put("lost"), primary.Kill(), standby.Restart(t.Context()), standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	proxy.Redirect(standby)
	proxy.Cut()

	// Nobody asks anything: the server notices by itself.
	for n.store.Failure() == nil || !errors.Is(n.store.Failure(), drivers.ErrDiverged) {
		select {
		case <-t.Context().Done():
			t.Fatal("the server has not noticed")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := put("more"); !errors.Is(err, drivers.ErrDiverged) {
		t.Errorf("a write: %v", err)
	}
	if _, _, err := n.store.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true}); !errors.Is(err, drivers.ErrDiverged) {
		t.Errorf("a serializable read: %v", err)
	}
	if err := n.LinearizableRead(t.Context()); err == nil {
		t.Error("/readyz is well")
	}
	if err := n.SerializableRead(t.Context()); err != nil {
		t.Errorf("/livez fails, and the server would be restarted: %v", err)
	}
	stop()

	n, stop = startShared(t, proxy.URL("postgres"))
	defer stop()
	if err := put("again"); err != nil {
		t.Errorf("after a start: %v", err)
	}
	if rev := n.store.Index().Rev; rev != 3 {
		t.Errorf("the revision is %d", rev)
	}
}

// startShared starts a server on a database; stop ends it.
func startShared(t *testing.T, url string) (n *Node, stop func()) {
	t.Helper()
	opts, _, err := config.Load(config.Input{Args: []string{
		"--name=one", "--datastore=" + url, "--data-dir=" + t.TempDir(),
		"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err = Open(t.Context(), opts, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for len(n.roster.Servers()) == 0 { // until it has joined
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return n, func() {
		cancel()
		if err := errors.Join(<-done, n.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
}
