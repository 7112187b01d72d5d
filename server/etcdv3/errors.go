package etcdv3

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// errorTable is the one place where errors become etcd's. The first match counts.
func errorTable() []struct{ is, answer error } {
	return []struct{ is, answer error }{
		{mvcc.ErrCompacted, rpctypes.ErrGRPCCompacted},
		{mvcc.ErrFutureRev, rpctypes.ErrGRPCFutureRev},
		{mvcc.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
		{mvcc.ErrDuplicateKey, rpctypes.ErrGRPCDuplicateKey},
		{mvcc.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},
		{mvcc.ErrLeaseExists, rpctypes.ErrGRPCLeaseExist},
		{mvcc.ErrLeaseTTLTooLong, rpctypes.ErrGRPCLeaseTTLTooLarge},
		{mvcc.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
		{mvcc.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
		{mvcc.ErrMemberExists, rpctypes.ErrGRPCMemberExist},
		{mvcc.ErrMemberNotFound, rpctypes.ErrGRPCMemberNotFound},
		{mvcc.ErrMemberRemoved, rpctypes.ErrGRPCMemberNotFound},
		{mvcc.ErrMemberNotLearner, rpctypes.ErrGRPCMemberNotLearner},
		{mvcc.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
		{mvcc.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
		// etcd gives its text to clients without its code.
		{mvcc.ErrNotEnoughStarted, status.Error(codes.Unknown, rpctypes.ErrMemberNotEnoughStarted.Error())},
		{errNotReady, rpctypes.ErrGRPCLearnerNotReady},
		{errUnhealthy, rpctypes.ErrGRPCUnhealthy},
		{mvcc.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
		{mvcc.ErrUserExists, rpctypes.ErrGRPCUserAlreadyExist},
		{mvcc.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
		{mvcc.ErrNameTooLong, rpctypes.ErrGRPCRequestTooLarge},
		// etcd has no code for this one, and a text that says something else.
		{mvcc.ErrBadPassword, status.Error(codes.Unknown, "auth: authentication failed, password was given for no password user")},
		{mvcc.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
		{mvcc.ErrRoleExists, rpctypes.ErrGRPCRoleAlreadyExist},
		{mvcc.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
		{mvcc.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
		{mvcc.ErrPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
		{mvcc.ErrPermissionNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
		{mvcc.ErrInvalidAuthMgmt, rpctypes.ErrGRPCInvalidAuthMgmt},
		{sqllog.ErrStopped, rpctypes.ErrGRPCStopped},
		{sqllog.ErrHalted, rpctypes.ErrGRPCTimeoutDueToLeaderFail},
		{drivers.ErrUncertain, rpctypes.ErrGRPCTimeout},
		{drivers.ErrNotLeader, errNotLeading},
		{drivers.ErrNoLeader, rpctypes.ErrGRPCNoLeader},
		{drivers.ErrNoQuorum, rpctypes.ErrGRPCTimeout},
		{drivers.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
		{drivers.ErrClosed, rpctypes.ErrGRPCStopped},
		{sqllog.ErrTimeout, rpctypes.ErrGRPCTimeout},
		// etcd ends when its disk fails; a client of it sees it unavailable.
		{sqllog.ErrStorage, rpctypes.ErrGRPCUnhealthy},
	}
}

// troubles say in an operator's words what keeps a server from its storage. The first match counts.
func troubles() []struct {
	is  error
	say string
} {
	return []struct {
		is  error
		say string
	}{
		{drivers.ErrDiverged, "the database has lost what this server had acknowledged, and it answers nothing until it is started again"},
		{drivers.ErrNoSpace, "no space is left where the data is kept: make room, no restart is needed"},
		{drivers.ErrCorrupt, "the data is damaged"},
		{drivers.ErrReadOnly, "the data cannot be written: it is read-only"},
		{sqllog.ErrTimeout, "a write to the data has taken too long"},
		{drivers.ErrUncertain, storageFails},
		{sqllog.ErrStorage, storageFails},
	}
}

const storageFails = "the data cannot be read or written: the server's log says why"

// Explain says what is wrong with a server, for those who ask how it is: in etcd's words where it has any, and never in those of the layers below.
func Explain(err error) string {
	for _, t := range troubles() {
		if errors.Is(err, t.is) {
			return t.say
		}
	}
	for _, ctxErr := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ctxErr) {
			return ctxErr.Error()
		}
	}
	for _, e := range errorTable() {
		if errors.Is(err, e.is) {
			return status.Convert(e.answer).Message()
		}
	}
	return storageFails
}

// grpcError gives etcd's error, code and text, for an error of the layers below.
func grpcError(err error) error {
	if err == nil {
		return nil
	}
	// Before the table: a read that its client gave up is no failure of the storage.
	if !errors.Is(err, drivers.ErrUncertain) {
		for _, ctxErr := range []error{context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, ctxErr) {
				return status.FromContextError(ctxErr).Err()
			}
		}
	}
	for _, e := range errorTable() {
		if errors.Is(err, e.is) {
			return e.answer
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}
