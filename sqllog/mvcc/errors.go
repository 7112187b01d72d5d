package mvcc

import "errors"

// The ways in which a request can be refused. Each has one etcd error; the
// table of the gRPC server says which.
var (
	ErrCompacted       = errors.New("mvcc: required revision has been compacted")
	ErrFutureRev       = errors.New("mvcc: required revision is a future revision")
	ErrKeyNotFound     = errors.New("mvcc: key not found")
	ErrDuplicateKey    = errors.New("mvcc: duplicate key given in txn request")
	ErrLeaseNotFound   = errors.New("mvcc: requested lease not found")
	ErrLeaseExists     = errors.New("mvcc: lease already exists")
	ErrLeaseTTLTooLong = errors.New("mvcc: too large lease TTL")
	ErrNoSpace         = errors.New("mvcc: database space exceeded")
	ErrCorrupt         = errors.New("mvcc: corrupt cluster")

	ErrMemberExists     = errors.New("mvcc: a member has this id")
	ErrMemberNotFound   = errors.New("mvcc: no member has this id")
	ErrMemberRemoved    = errors.New("mvcc: the member of this id was removed")
	ErrMemberNotLearner = errors.New("mvcc: the member to be promoted is no learner")
	ErrPeerURLExists    = errors.New("mvcc: another member has this peer URL")
	ErrTooManyLearners  = errors.New("mvcc: too many learners")
	ErrNotEnoughStarted = errors.New("mvcc: not enough of the members that vote have started")

	ErrUserEmpty            = errors.New("mvcc: user name is empty")
	ErrUserExists           = errors.New("mvcc: user name already exists")
	ErrUserNotFound         = errors.New("mvcc: user name not found")
	ErrNameTooLong          = errors.New("mvcc: the name of a user or role is too long")
	ErrBadPassword          = errors.New("mvcc: the hash of a password is not in base64")
	ErrRoleEmpty            = errors.New("mvcc: role name is empty")
	ErrRoleExists           = errors.New("mvcc: role name already exists")
	ErrRoleNotFound         = errors.New("mvcc: role name not found")
	ErrRoleNotGranted       = errors.New("mvcc: role is not granted to the user")
	ErrPermissionNotGiven   = errors.New("mvcc: permission not given")
	ErrPermissionNotGranted = errors.New("mvcc: permission is not granted to the role")
	ErrInvalidAuthMgmt      = errors.New("mvcc: invalid auth management")
)
