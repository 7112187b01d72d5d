package peer

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

var (
	// ErrRemoved says that the member called considers this one removed from the cluster.
	ErrRemoved = errors.New("the member has been permanently removed from the cluster")
	// ErrOtherCluster says that the address is one of another cluster.
	ErrOtherCluster = errors.New("the peer is of another cluster")
	// ErrOtherMember says that the address is another member's.
	ErrOtherMember = errors.New("the peer is another member")
	// ErrOtherOrigin says that the cluster of the member called began with another log than this one's.
	ErrOtherOrigin = errors.New("the peer was restored from another snapshot than this member, or only one of the two was restored: restore the same file with the same program and flags on all members")
	// ErrBegun says that this member, which has never had an entry of the Raft log, is known to the member called as one that had: it has lost its data.
	ErrBegun = errors.New("the peer knows this member as one that was there before")
	// ErrUnknownPeer says that there are no addresses of a member.
	ErrUnknownPeer = errors.New("no such peer")
)

// refuse makes the status of a refused call.
func refuse(reason peerpb.Refusal_Reason, format string, args ...any) error {
	s := status.Newf(codes.FailedPrecondition, format, args...)
	if detailed, err := s.WithDetails(&peerpb.Refusal{Reason: reason}); err == nil {
		s = detailed
	}
	return s.Err()
}

// refusedError is a call's error that says, to errors.Is, why it was refused.
type refusedError struct {
	reason error
	status *status.Status
}

func (e *refusedError) Error() string              { return fmt.Sprintf("%v: %s", e.reason, e.status.Message()) }
func (e *refusedError) Unwrap() error              { return e.reason }
func (e *refusedError) GRPCStatus() *status.Status { return e.status }

// judged gives an error its meaning, if it is a Guard's.
func judged(err error) error {
	if err == nil || status.Code(err) != codes.FailedPrecondition {
		return err
	}
	s := status.Convert(err)
	for _, detail := range s.Details() {
		refusal, ok := detail.(*peerpb.Refusal)
		if !ok {
			continue
		}
		switch refusal.GetReason() {
		case peerpb.Refusal_REMOVED:
			return &refusedError{ErrRemoved, s}
		case peerpb.Refusal_CLUSTER:
			return &refusedError{ErrOtherCluster, s}
		case peerpb.Refusal_MEMBER:
			return &refusedError{ErrOtherMember, s}
		case peerpb.Refusal_BEGUN:
			return &refusedError{ErrBegun, s}
		case peerpb.Refusal_ORIGIN:
			return &refusedError{ErrOtherOrigin, s}
		}
	}
	return err
}
