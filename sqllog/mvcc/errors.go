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
)
