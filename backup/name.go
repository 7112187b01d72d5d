package backup

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Backup is one of the copies in a target.
type Backup struct {
	// Cluster is the id of the cluster that it is of.
	Cluster uint64
	// Time is when the snapshot was made, to the millisecond.
	Time time.Time
	// Revision is the last one that it has.
	Revision int64
	// Size is the number of its bytes. It is no part of the name.
	Size int64
}

// layout is how a name has a time: names of one cluster sort by it.
const layout = "20060102T150405.000Z"

// Name is what a backup is called in its target: keelson-<cluster>-<UTC time>-<revision>.db.
func (b Backup) Name() string {
	return fmt.Sprintf("%s-%s-%d.db", namesOf(b.Cluster), b.Time.UTC().Format(layout), b.Revision)
}

// namesOf is what all names of a cluster begin with, and those of no other.
func namesOf(cluster uint64) string { return fmt.Sprintf("%s%016x", names, cluster) }

// names is what all names begin with.
const names = "keelson-"

// Parse reads a name. What is not exactly as Name gives it is somebody else's file.
func Parse(name string) (Backup, bool) {
	form := regexp.MustCompile(`^keelson-([0-9a-f]{16})-([0-9]{8}T[0-9]{6}\.[0-9]{3}Z)-([0-9]{1,19})\.db$`)
	m := form.FindStringSubmatch(name)
	if m == nil {
		return Backup{}, false
	}
	cluster, err1 := strconv.ParseUint(m[1], 16, 64)
	at, err2 := time.Parse(layout, m[2])
	revision, err3 := strconv.ParseInt(m[3], 10, 64)
	b := Backup{Cluster: cluster, Time: at, Revision: revision}
	return b, err1 == nil && err2 == nil && err3 == nil && b.Name() == name
}

// of gives the backups of a cluster, the newest first.
func of(cluster uint64, all []Backup) []Backup {
	var own []Backup
	for _, b := range all {
		if b.Cluster == cluster {
			own = append(own, b)
		}
	}
	Sort(own)
	slices.Reverse(own)
	return own
}

// Sort brings backups into order, the oldest first.
func Sort(all []Backup) {
	slices.SortFunc(all, func(a, b Backup) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Cluster, b.Cluster))
	})
}
