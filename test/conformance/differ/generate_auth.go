package differ

import "github.com/keelson-io/keelson/test/conformance/script"

// Users and roles are few, so that requests meet; one of each cannot be.
func users() []string { return []string{"u", "v", "root", `"\x00"`, `""`} }
func roles() []string { return []string{"r", "s", "root", "é", `""`} }

func (g *generator) user() string { return pick(g, users()...) }
func (g *generator) role() string { return pick(g, roles()...) }

// password is that of a user, given in one way or another.
func (g *generator) password() string {
	return pick(g, "", " password=p", " password=q", " password=p*73", " hashedPassword=aGFzaA==", ` hashedPassword="no base64!"`)
}

// permitted is the range of a permission, each field after prefix. Mostly it is none that cannot be.
func (g *generator) permitted(prefix string) string {
	line := ""
	if !g.one(20) {
		line += " " + prefix + "key=" + script.Quote([]byte(pick(g, "a", "b", "b", "c", "\x00")))
	}
	if !g.one(3) {
		line += " " + prefix + "range_end=" + script.Quote([]byte(pick(g, "\x00", "c", "d", "\xff", "a\x00")))
	}
	return line
}

// auth makes a request that authentication being off does not refuse. None enables it.
func (g *generator) auth() Step {
	switch g.IntN(14) {
	case 0, 1:
		return Step{"call Auth.UserAdd name=" + g.user() + g.password() + g.flags(3, "options.no_password=true")}
	case 2:
		return Step{"call Auth.UserDelete name=" + g.user()}
	case 3:
		return Step{"call Auth.UserChangePassword name=" + g.user() + g.password()}
	case 4, 5:
		return Step{"call Auth.UserGrantRole user=" + g.user() + " role=" + g.role()}
	case 6:
		return Step{"call Auth.UserRevokeRole name=" + g.user() + " role=" + g.role()}
	case 7:
		return Step{"call Auth.RoleAdd name=" + g.role()}
	case 8:
		return Step{"call Auth.RoleDelete role=" + g.role()}
	case 9, 10, 11:
		if g.one(20) {
			return Step{"call Auth.RoleGrantPermission name=" + g.role()}
		}
		kind := " perm.permType=" + pick(g, "read", "write", "readwrite", "7")
		return Step{"call Auth.RoleGrantPermission name=" + g.role() + kind + g.permitted("perm.")}
	case 12:
		return Step{"call Auth.RoleRevokePermission role=" + g.role() + g.permitted("")}
	}
	return Step{pick(g, "call Auth.UserGet name="+g.user(), "call Auth.RoleGet role="+g.role(),
		"call Auth.UserList", "call Auth.RoleList", "call Auth.AuthStatus")}
}

// everyAuth looks at all users and roles that there may be.
func everyAuth() Step {
	all := Step{"call Auth.AuthStatus", "call Auth.UserList", "call Auth.RoleList"}
	for _, name := range users() {
		all = append(all, "call Auth.UserGet name="+name)
	}
	for _, name := range roles() {
		all = append(all, "call Auth.RoleGet role="+name)
	}
	return all
}
