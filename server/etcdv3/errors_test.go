package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestErrors: every error becomes etcd's, with the code and the text that clients
// compare, also wrapped; of several the one that says most.
func TestErrors(t *testing.T) {
	const (
		compacted   = "etcdserver: mvcc: required revision has been compacted"
		future      = "etcdserver: mvcc: required revision is a future revision"
		notFound    = "etcdserver: key not found"
		duplicate   = "etcdserver: duplicate key given in txn request"
		noLease     = "etcdserver: requested lease not found"
		leaseExists = "etcdserver: lease already exists"
		longTTL     = "etcdserver: too large lease TTL"
		noSpace     = "etcdserver: mvcc: database space exceeded"
		corrupt     = "etcdserver: corrupt cluster"
		stopped     = "etcdserver: server stopped"
		timedOut    = "etcdserver: request timed out"
		unhealthy   = "etcdserver: unhealthy cluster"
		badPassword = "auth: authentication failed, password was given for no password user"
		notGiven    = "etcdserver: permission not given"
		notStarted  = "etcdserver: re-configuration failed due to not enough started members"
	)
	// The texts that etcd's client package has no error of its own for, or one of another code.
	unnamed := []string{badPassword, notGiven, notStarted, "keelson: this server does not lead"} // the last is for servers only
	both := func(a, b error) error { return fmt.Errorf("%w: %w", a, b) }
	for _, c := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{mvcc.ErrCompacted, codes.OutOfRange, compacted},
		{mvcc.ErrFutureRev, codes.OutOfRange, future},
		{mvcc.ErrKeyNotFound, codes.InvalidArgument, notFound},
		{mvcc.ErrDuplicateKey, codes.InvalidArgument, duplicate},
		{mvcc.ErrLeaseNotFound, codes.NotFound, noLease},
		{mvcc.ErrLeaseExists, codes.FailedPrecondition, leaseExists},
		{mvcc.ErrLeaseTTLTooLong, codes.OutOfRange, longTTL},
		{mvcc.ErrNoSpace, codes.ResourceExhausted, noSpace},
		{mvcc.ErrCorrupt, codes.DataLoss, corrupt},
		{mvcc.ErrMemberExists, codes.FailedPrecondition, "etcdserver: member ID already exist"},
		{mvcc.ErrMemberNotFound, codes.NotFound, "etcdserver: member not found"},
		{mvcc.ErrMemberRemoved, codes.NotFound, "etcdserver: member not found"},
		{mvcc.ErrMemberNotLearner, codes.FailedPrecondition, "etcdserver: can only promote a learner member"},
		{mvcc.ErrPeerURLExists, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},
		{mvcc.ErrTooManyLearners, codes.FailedPrecondition, "etcdserver: too many learner members in cluster"},
		{mvcc.ErrNotEnoughStarted, codes.Unknown, notStarted},
		{errNotReady, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader"},
		{errUnhealthy, codes.Unavailable, unhealthy},
		{mvcc.ErrUserEmpty, codes.InvalidArgument, "etcdserver: user name is empty"},
		{mvcc.ErrUserExists, codes.FailedPrecondition, "etcdserver: user name already exists"},
		{mvcc.ErrUserNotFound, codes.FailedPrecondition, "etcdserver: user name not found"},
		{mvcc.ErrNameTooLong, codes.InvalidArgument, "etcdserver: request is too large"},
		{mvcc.ErrBadPassword, codes.Unknown, badPassword},
		{mvcc.ErrRoleEmpty, codes.InvalidArgument, "etcdserver: role name is empty"},
		{mvcc.ErrRoleExists, codes.FailedPrecondition, "etcdserver: role name already exists"},
		{mvcc.ErrRoleNotFound, codes.FailedPrecondition, "etcdserver: role name not found"},
		{mvcc.ErrRoleNotGranted, codes.FailedPrecondition, "etcdserver: role is not granted to the user"},
		{mvcc.ErrPermissionNotGiven, codes.InvalidArgument, notGiven},
		{mvcc.ErrPermissionNotGranted, codes.FailedPrecondition, "etcdserver: permission is not granted to the role"},
		{mvcc.ErrInvalidAuthMgmt, codes.InvalidArgument, "etcdserver: invalid auth management"},
		{sqllog.ErrStopped, codes.Unavailable, stopped},
		{sqllog.ErrTimeout, codes.Unavailable, timedOut},
		{sqllog.ErrStorage, codes.Unavailable, unhealthy},
		{drivers.ErrUncertain, codes.Unavailable, timedOut},
		{drivers.ErrNoSpace, codes.ResourceExhausted, noSpace},
		{drivers.ErrClosed, codes.Unavailable, stopped},
		// A storage that says why.
		{both(sqllog.ErrStorage, drivers.ErrNoSpace), codes.ResourceExhausted, noSpace},
		{both(sqllog.ErrStorage, drivers.ErrClosed), codes.Unavailable, stopped},
		{both(sqllog.ErrStorage, drivers.ErrCorrupt), codes.Unavailable, unhealthy},
		{both(sqllog.ErrStorage, drivers.ErrReadOnly), codes.Unavailable, unhealthy},
		{both(sqllog.ErrStorage, drivers.ErrScrubbed), codes.Unavailable, unhealthy},
		// Nobody is told that nothing was done when that is not known.
		{both(drivers.ErrUncertain, drivers.ErrNoSpace), codes.Unavailable, timedOut},
		{both(drivers.ErrNoSpace, drivers.ErrUncertain), codes.Unavailable, timedOut},
		{both(sqllog.ErrStorage, drivers.ErrUncertain), codes.Unavailable, timedOut},
	} {
		for _, err := range []error{c.err, fmt.Errorf("an operation: %w", c.err), errors.Join(errors.New("another"), c.err)} {
			got := status.Convert(grpcError(err))
			if got.Code() != c.code || got.Message() != c.text {
				t.Errorf("%v becomes %v %q, want %v %q", err, got.Code(), got.Message(), c.code, c.text)
			}
		}
		var known rpctypes.EtcdError
		if !slices.Contains(unnamed, c.text) && (!errors.As(rpctypes.Error(grpcError(c.err)), &known) || known.Code() != c.code || known.Error() != c.text) {
			t.Errorf("etcd's clients do not know %v", grpcError(c.err))
		}
	}
	for _, e := range errorTable() {
		if !slices.Contains(unnamed, status.Convert(e.answer).Message()) && !errors.As(rpctypes.Error(e.answer), new(rpctypes.EtcdError)) {
			t.Errorf("%v becomes %v, which etcd's clients do not know", e.is, e.answer)
		}
		if !errors.Is(grpcError(e.is), e.answer) {
			t.Errorf("%v becomes %v: another line of the table comes before", e.is, grpcError(e.is))
		}
	}
}

// TestOtherErrors: what is no error stays so, what is gRPC's already is left alone, and the rest is
// told as etcd tells what it does not know.
func TestOtherErrors(t *testing.T) {
	if err := grpcError(nil); err != nil {
		t.Error(err)
	}
	if err := grpcError(rpctypes.ErrGRPCTooManyOps); !errors.Is(err, rpctypes.ErrGRPCTooManyOps) {
		t.Error(err)
	}
	if got := status.Convert(grpcError(errors.New("strange"))); got.Code() != codes.Unknown || got.Message() != "strange" {
		t.Error(got)
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		got := status.Convert(grpcError(fmt.Errorf("an operation: %w", err)))
		if want := status.FromContextError(err); got.Code() != want.Code() || got.Message() != want.Message() {
			t.Errorf("%v instead of %v", got, want)
		}
	}
}

// TestTableIsComplete: a way to refuse a request that is added to the layers below has a line in the table.
func TestTableIsComplete(t *testing.T) {
	answered := map[string]bool{}
	for _, e := range errorTable() {
		answered[e.is.Error()] = true
	}
	for _, file := range []string{"../../sqllog/mvcc/errors.go", "../../sqllog/store.go"} {
		texts := sentinels(t, file)
		if len(texts) < 3 {
			t.Errorf("%s has only %d errors", file, len(texts))
		}
		for _, text := range texts {
			if !answered[text] {
				t.Errorf("%s: %q has no line in the table", file, text)
			}
		}
	}
}

// sentinels gives the texts of the errors that a file makes with errors.New.
func sentinels(t *testing.T, file string) (texts []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		vars, ok := d.(*ast.GenDecl)
		if !ok || vars.Tok != token.VAR {
			continue
		}
		ast.Inspect(vars, func(n ast.Node) bool {
			if s, ok := n.(*ast.BasicLit); ok && s.Kind == token.STRING {
				text, err := strconv.Unquote(s.Value)
				if err != nil {
					t.Fatal(err)
				}
				texts = append(texts, text)
			}
			return true
		})
	}
	return texts
}

// Whoever gave up is told so, and not that the storage is ill; an unknown
// outcome stays unknown whatever made it so.
func TestErrorsOfContexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("%w: %w", sqllog.ErrStorage, context.Canceled), codes.Canceled},
		{fmt.Errorf("%w: %w", sqllog.ErrStorage, context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("%w: %w", drivers.ErrUncertain, context.Canceled), codes.Unavailable},
		{sqllog.ErrStorage, codes.Unavailable},
	} {
		if got := status.Code(grpcError(c.err)); got != c.want {
			t.Errorf("%v becomes %v, want %v", c.err, got, c.want)
		}
	}
}
