package etcdfile

// etcd's buckets.
const (
	keyBucket     = "key"
	metaBucket    = "meta"
	leaseBucket   = "lease"
	alarmBucket   = "alarm"
	clusterBucket = "cluster"
	membersBucket = "members"
	removedBucket = "members_removed"
	authBucket    = "auth"
	usersBucket   = "authUsers"
	rolesBucket   = "authRoles"
)

// Keys in the bucket meta.
const (
	scheduledKey = "scheduledCompactRev"
	finishedKey  = "finishedCompactRev"
	indexKey     = "consistent_index"
	termKey      = "term"           // since 3.5
	confStateKey = "confState"      // since 3.5
	versionKey   = "storageVersion" // since 3.6
)

// Keys in the buckets auth and cluster.
const (
	authEnabledKey    = "authEnabled"
	authRevisionKey   = "authRevision"
	clusterVersionKey = "clusterVersion"
)

// plainBuckets are all of etcd's but meta, which makes a file whole.
func plainBuckets() []string {
	return []string{
		keyBucket, leaseBucket, alarmBucket, clusterBucket, membersBucket, removedBucket,
		authBucket, usersBucket, rolesBucket,
	}
}
