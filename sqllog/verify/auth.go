package verify

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// authChange checks that auth revisions do not go back (I11). The changes of one request share one; those
// between may have been scrubbed.
func (w *walk) authChange(position int64, c mvcc.AuthChange) {
	if c.AuthRev < w.authRev {
		w.find("I11", position, "auth revision %d follows auth revision %d", c.AuthRev, w.authRev)
	}
	w.authRev = max(w.authRev, c.AuthRev)
}

// keep notes the newest state of a user or role.
func keep[T any](all map[string]T, v T, name string, removed bool) {
	if removed {
		delete(all, name)
		return
	}
	all[name] = v
}

// compareAuth holds the users and roles of the index to what the walk found (I11). Passwords are
// compared, and never shown.
func (w *walk) compareAuth() {
	if w.index.AuthRev != w.authRev {
		w.find("I11", 0, "the index is at auth revision %d, and the log at %d", w.index.AuthRev, w.authRev)
	}
	indexed := 0
	for range w.index.Users() {
		indexed++
	}
	for range w.index.Roles() {
		indexed++
	}
	if n := len(w.users) + len(w.roles); n != indexed {
		w.find("I11", 0, "the index has %d users and roles, and the log %d", indexed, n)
	}
	for _, name := range slices.Sorted(maps.Keys(w.users)) {
		u := w.users[name]
		if got := w.index.User(name); got == nil || got.AuthChange != u.AuthChange || !proto.Equal(got.User, u.User) {
			w.find("I11", 0, "user %q is not in the index as in the log", name)
		}
		w.checkRoles(name, u.Roles)
	}
	for _, name := range slices.Sorted(maps.Keys(w.roles)) {
		r := w.roles[name]
		if got := w.index.Role(name); got == nil || got.AuthChange != r.AuthChange || !proto.Equal(got.Role, r.Role) {
			w.find("I11", 0, "role %q is not in the index as in the log", name)
		}
	}
}

// checkRoles checks what a user has been granted.
func (w *walk) checkRoles(user string, roles []string) {
	for i, role := range roles {
		if w.roles[role] == nil && role != mvcc.RootName {
			w.find("I11", 0, "user %q has role %q, which does not exist", user, role)
		}
		if i > 0 && role <= roles[i-1] {
			w.find("I11", 0, "user %q has role %q after role %q", user, role, roles[i-1])
		}
	}
}
