package etcdv3

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
)

// lockedBuffer takes the log of a server.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// authFixture is a server on a log in memory, a client of it, and all that it has logged.
type authFixture struct {
	pb.AuthClient
	store *sqllog.Store
	logs  lockedBuffer
}

func newAuthFixture(t *testing.T, cost int) *authFixture {
	t.Helper()
	f := &authFixture{}
	logger := slog.New(slog.NewTextHandler(&f.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.store, err = sqllog.Open(t.Context(), sqllog.Options{Log: memory.NewStore().Open(), Logger: logger}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- f.store.Run(ctx) }()
	server := Register(Options{Store: f.store, Logger: logger, MaxRequestBytes: 1 << 20, BcryptCost: cost})
	listener := bufconn.Listen(1 << 16)
	go func() { ended <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	f.AuthClient = pb.NewAuthClient(conn)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return f
}

// stored gives the hash that the store has of a user's password.
func (f *authFixture) stored(name string) []byte { return f.store.Index().User(name).Password }

// TestPasswords: the store gets a hash, and nobody is shown it or the password, in the most talkative log neither.
func TestPasswords(t *testing.T) {
	f := newAuthFixture(t, bcrypt.MinCost)
	const first, second, unused = "first secret", "second secret", "unused secret"
	secrets := []string{first, second, unused}
	check := func(password string) {
		t.Helper()
		hash := f.stored("u")
		if err := bcrypt.CompareHashAndPassword(hash, []byte(password)); err != nil {
			t.Errorf("password %q: %v", password, err)
		}
		if cost, err := bcrypt.Cost(hash); err != nil || cost != bcrypt.MinCost {
			t.Errorf("cost %d, %v", cost, err)
		}
		secrets = append(secrets, string(hash), base64.StdEncoding.EncodeToString(hash))
	}
	if _, err := f.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "u", Password: first}); err != nil {
		t.Fatal(err)
	}
	check(first)
	if _, err := f.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "u", Password: second}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("twice: %v", err)
	}
	check(first)
	if _, err := f.UserChangePassword(t.Context(), &pb.AuthUserChangePasswordRequest{Name: "u", Password: second}); err != nil {
		t.Fatal(err)
	}
	check(second)
	made, err := bcrypt.GenerateFromPassword([]byte(first), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	change := &pb.AuthUserChangePasswordRequest{Name: "u", HashedPassword: base64.StdEncoding.EncodeToString(made)}
	if _, err := f.UserChangePassword(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	check(first)
	none := &pb.AuthUserAddRequest{Name: "none", Password: unused, Options: &authpb.UserAddOptions{NoPassword: true}}
	if _, err := f.UserAdd(t.Context(), none); err != nil || len(f.stored("none")) != 0 {
		t.Errorf("%v, and a password of %d bytes", err, len(f.stored("none")))
	}
	if _, err := f.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "long", Password: strings.Repeat(unused, 9)}); status.Code(err) != codes.Unknown {
		t.Errorf("a long password: %v", err)
	}
	got, err := f.UserGet(t.Context(), &pb.AuthUserGetRequest{Name: "u"})
	if err != nil {
		t.Fatal(err)
	}
	logged := f.logs.String()
	if !strings.Contains(logged, "/etcdserverpb.Auth/UserAdd") || !strings.Contains(logged, "name=u") {
		t.Errorf("the log does not tell of the requests:\n%s", logged)
	}
	for _, secret := range secrets {
		if strings.Contains(logged, secret) || strings.Contains(got.String(), secret) {
			t.Errorf("%q can be read in the log or in the answer", secret)
		}
	}
}

// TestBcryptCost: a cost that bcrypt does not take is its default, as in etcd.
func TestBcryptCost(t *testing.T) {
	for _, c := range []struct{ given, want int }{
		{0, bcrypt.DefaultCost}, {bcrypt.MinCost - 1, bcrypt.DefaultCost}, {bcrypt.MaxCost + 1, bcrypt.DefaultCost},
		{bcrypt.MinCost, bcrypt.MinCost}, {bcrypt.MinCost + 1, bcrypt.MinCost + 1},
	} {
		f := newAuthFixture(t, c.given)
		if _, err := f.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "u", Password: "p"}); err != nil {
			t.Fatal(err)
		}
		if cost, err := bcrypt.Cost(f.stored("u")); err != nil || cost != c.want {
			t.Errorf("--bcrypt-cost %d hashes with cost %d (%v), want %d", c.given, cost, err, c.want)
		}
	}
}

// TestAuthEnable: where etcd would enable authentication this server says that it cannot, and changes nothing.
func TestAuthEnable(t *testing.T) {
	f := newAuthFixture(t, bcrypt.MinCost)
	if _, err := f.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.AuthEnable(t.Context(), &pb.AuthEnableRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("enabling: %v", err)
	}
	got, err := f.AuthStatus(t.Context(), &pb.AuthStatusRequest{})
	if err != nil || got.Enabled || got.AuthRevision != 3 || got.Header.GetRevision() != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
