package mvcc

import (
	"iter"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"
)

// RootName is the name of the user and of the role that may do everything.
const RootName = "root"

// maxName is the longest name of a user or role in bytes: what etcd's file format can carry. An etcd that is given a
// longer one ends, and does not start again.
const maxName = 32768

// AuthChange is the change of a user or role that made it what it is.
type AuthChange struct {
	// AuthRev is the auth revision that the change made.
	AuthRev int64
	// Removed says that there is none of this name any more. No index holds one of these.
	Removed bool

	position int64
}

func (c AuthChange) removal() AuthChange {
	c.Removed = true
	return c
}

// User is a user of the Auth API as the log tells it. It never changes: a change makes a new one. Its
// password is a hash, and is never shown.
type User struct {
	*authpb.User
	AuthChange
}

// Role is a role of the Auth API as the log tells it, likewise.
type Role struct {
	*authpb.Role
	AuthChange
}

func (*User) weight() int { return 1 }
func (*Role) weight() int { return 1 }

// Has tells whether the user has been granted a role.
func (u *User) Has(role string) bool {
	i := sort.SearchStrings(u.Roles, role)
	return i < len(u.Roles) && u.Roles[i] == role
}

// User gives the user of this name, or nil.
func (ix *Index) User(name string) *User {
	u, _ := ix.users.get(name)
	return u
}

// Users yields every user, by name.
func (ix *Index) Users() iter.Seq2[string, *User] { return ix.users.all(Everything) }

// Role gives the role of this name, or nil.
func (ix *Index) Role(name string) *Role {
	r, _ := ix.roles.get(name)
	return r
}

// Roles yields every role, by name.
func (ix *Index) Roles() iter.Seq2[string, *Role] { return ix.roles.all(Everything) }

func (b *Builder) applyUser(u *User) {
	name := string(u.Name)
	if old := b.ix.User(name); old != nil {
		b.discard(old.position)
	}
	if u.Removed {
		b.ix.users = b.ix.users.del(b.own, name)
	} else {
		b.ix.users = b.ix.users.set(b.own, name, u)
	}
	b.reachAuth(u.AuthChange)
}

func (b *Builder) applyRole(r *Role) {
	name := string(r.Name)
	if old := b.ix.Role(name); old != nil {
		b.discard(old.position)
	}
	if r.Removed {
		b.ix.roles = b.ix.roles.del(b.own, name)
	} else {
		b.ix.roles = b.ix.roles.set(b.own, name, r)
	}
	b.reachAuth(r.AuthChange)
}

// reachAuth moves the auth revision to that of a change, which is the newest. A removal, which leaves nothing else
// behind, stays in the log as long as it is that (invariant I11), and so tells the auth revision to whoever loads it.
func (b *Builder) reachAuth(c AuthChange) {
	if b.ix.authRemoval != 0 {
		b.discard(b.ix.authRemoval)
	}
	b.ix.AuthRev, b.ix.authRemoval = max(b.ix.AuthRev, c.AuthRev), 0
	if c.Removed {
		b.ix.authRemoval = c.position
	}
}
