package mvcc

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// auth decides a request that changes users or roles. Each that changes something, if only a password to what it
// was, moves the auth revision by 1.
func (ev *evaluator) auth(request any) (resp any, err error) {
	switch r := request.(type) {
	case *pb.AuthUserAddRequest:
		resp, err = &pb.AuthUserAddResponse{Header: ev.header()}, ev.userAdd(r)
	case *pb.AuthUserDeleteRequest:
		resp, err = &pb.AuthUserDeleteResponse{Header: ev.header()}, ev.userDelete(r)
	case *pb.AuthUserChangePasswordRequest:
		resp, err = &pb.AuthUserChangePasswordResponse{Header: ev.header()}, ev.userChangePassword(r)
	case *pb.AuthUserGrantRoleRequest:
		resp, err = &pb.AuthUserGrantRoleResponse{Header: ev.header()}, ev.userGrantRole(r)
	case *pb.AuthUserRevokeRoleRequest:
		resp, err = &pb.AuthUserRevokeRoleResponse{Header: ev.header()}, ev.userRevokeRole(r)
	case *pb.AuthRoleAddRequest:
		resp, err = &pb.AuthRoleAddResponse{Header: ev.header()}, ev.roleAdd(r)
	case *pb.AuthRoleDeleteRequest:
		resp, err = &pb.AuthRoleDeleteResponse{Header: ev.header()}, ev.roleDelete(r)
	case *pb.AuthRoleGrantPermissionRequest:
		resp, err = &pb.AuthRoleGrantPermissionResponse{Header: ev.header()}, ev.roleGrantPermission(r)
	case *pb.AuthRoleRevokePermissionRequest:
		resp, err = &pb.AuthRoleRevokePermissionResponse{Header: ev.header()}, ev.roleRevokePermission(r)
	default:
		panic(fmt.Sprintf("mvcc: request of type %T", request))
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// nextAuth is the change that the request makes.
func (ev *evaluator) nextAuth() AuthChange { return AuthChange{AuthRev: ev.b.ix.AuthRev + 1} }

func (ev *evaluator) writeUser(u *authpb.User, c AuthChange) error {
	meta, err := encodeAuth(c, u)
	if err != nil {
		return err
	}
	c.position = ev.b.emit(KindUser, meta, nil)
	ev.b.applyUser(&User{u, c})
	return nil
}

func (ev *evaluator) writeRole(r *authpb.Role, c AuthChange) error {
	meta, err := encodeAuth(c, r)
	if err != nil {
		return err
	}
	c.position = ev.b.emit(KindRole, meta, nil)
	ev.b.applyRole(&Role{r, c})
	return nil
}

// passwordOf gives the hash that a user with these options gets.
func passwordOf(options *authpb.UserAddOptions, hashed string) ([]byte, error) {
	if options.GetNoPassword() {
		return nil, nil
	}
	password, err := base64.StdEncoding.DecodeString(hashed)
	if err != nil {
		return nil, ErrBadPassword
	}
	return password, nil
}

func (ev *evaluator) userAdd(r *pb.AuthUserAddRequest) error {
	switch {
	case r.Name == "":
		return ErrUserEmpty
	case len(r.Name) > maxName:
		return ErrNameTooLong
	case ev.b.ix.User(r.Name) != nil:
		return ErrUserExists
	}
	password, err := passwordOf(r.Options, r.HashedPassword)
	if err != nil {
		return err
	}
	options := &authpb.UserAddOptions{NoPassword: r.Options.GetNoPassword()}
	return ev.writeUser(&authpb.User{Name: []byte(r.Name), Password: password, Options: options}, ev.nextAuth())
}

func (ev *evaluator) userDelete(r *pb.AuthUserDeleteRequest) error {
	if ev.b.ix.User(r.Name) == nil {
		return ErrUserNotFound
	}
	return ev.writeUser(&authpb.User{Name: []byte(r.Name)}, ev.nextAuth().removal())
}

func (ev *evaluator) userChangePassword(r *pb.AuthUserChangePasswordRequest) error {
	u := ev.b.ix.User(r.Name)
	if u == nil {
		return ErrUserNotFound
	}
	password, err := passwordOf(u.Options, r.HashedPassword)
	if err != nil {
		return err
	}
	return ev.writeUser(&authpb.User{Name: u.Name, Password: password, Roles: u.Roles, Options: u.Options}, ev.nextAuth())
}

// withRoles is the same user with other roles.
func (u *User) withRoles(roles []string) *authpb.User {
	return &authpb.User{Name: u.Name, Password: u.Password, Roles: roles, Options: u.Options}
}

func (ev *evaluator) userGrantRole(r *pb.AuthUserGrantRoleRequest) error {
	u := ev.b.ix.User(r.User)
	switch {
	case u == nil:
		return ErrUserNotFound
	case r.Role != RootName && ev.b.ix.Role(r.Role) == nil:
		return ErrRoleNotFound
	case u.Has(r.Role):
		return nil
	}
	i := sort.SearchStrings(u.Roles, r.Role)
	return ev.writeUser(u.withRoles(slices.Insert(slices.Clone(u.Roles), i, r.Role)), ev.nextAuth())
}

func (ev *evaluator) userRevokeRole(r *pb.AuthUserRevokeRoleRequest) error {
	u := ev.b.ix.User(r.Name)
	switch {
	case u == nil:
		return ErrUserNotFound
	case !u.Has(r.Role):
		return ErrRoleNotGranted
	}
	return ev.writeUser(u.without(r.Role), ev.nextAuth())
}

// without is the same user without a role.
func (u *User) without(role string) *authpb.User {
	return u.withRoles(slices.DeleteFunc(slices.Clone(u.Roles), func(r string) bool { return r == role }))
}

func (ev *evaluator) roleAdd(r *pb.AuthRoleAddRequest) error {
	switch {
	case r.Name == "":
		return ErrRoleEmpty
	case len(r.Name) > maxName:
		return ErrNameTooLong
	case ev.b.ix.Role(r.Name) != nil:
		return ErrRoleExists
	}
	return ev.writeRole(&authpb.Role{Name: []byte(r.Name)}, ev.nextAuth())
}

// roleDelete takes the role from all who have it, too, in one auth revision.
func (ev *evaluator) roleDelete(r *pb.AuthRoleDeleteRequest) error {
	if ev.b.ix.Role(r.Role) == nil {
		return ErrRoleNotFound
	}
	var holders []*User
	for _, u := range ev.b.ix.Users() {
		if u.Has(r.Role) {
			holders = append(holders, u)
		}
	}
	c := ev.nextAuth()
	if err := ev.writeRole(&authpb.Role{Name: []byte(r.Role)}, c.removal()); err != nil {
		return err
	}
	for _, u := range holders {
		if err := ev.writeUser(u.without(r.Role), c); err != nil {
			return err
		}
	}
	return nil
}

// permits tells whether a permission can be for this range: a key, a range that is not
// empty, or all from a key on.
func permits(p *authpb.Permission) bool {
	switch {
	case len(p.Key) == 0:
		return false
	case len(p.RangeEnd) == 0, bytes.Equal(p.RangeEnd, []byte{0}):
		return true
	}
	return bytes.Compare(p.Key, p.RangeEnd) < 0
}

// byKey orders permissions.
type byKey []*authpb.Permission

func (ps byKey) Len() int           { return len(ps) }
func (ps byKey) Less(i, j int) bool { return bytes.Compare(ps[i].Key, ps[j].Key) < 0 }
func (ps byKey) Swap(i, j int)      { ps[i], ps[j] = ps[j], ps[i] }

// roleGrantPermission finds a permission to be changed by its range only if it is the first that begins at its key; if
// it is not, there are two of it afterwards. That, and the order in which those of one
// key come to stand, by an unstable sort, is etcd's, and clients see it.
func (ev *evaluator) roleGrantPermission(r *pb.AuthRoleGrantPermissionRequest) error {
	switch {
	case r.Perm == nil:
		return ErrPermissionNotGiven
	case !permits(r.Perm):
		return ErrInvalidAuthMgmt
	}
	role := ev.b.ix.Role(r.Name)
	if role == nil {
		return ErrRoleNotFound
	}
	granted := &authpb.Permission{PermType: r.Perm.PermType, Key: r.Perm.Key, RangeEnd: r.Perm.RangeEnd}
	perms := byKey(slices.Clone(role.KeyPermission))
	i := sort.Search(len(perms), func(i int) bool { return bytes.Compare(perms[i].Key, granted.Key) >= 0 })
	if i < len(perms) && sameRange(perms[i], granted.Key, granted.RangeEnd) {
		perms[i] = granted
	} else {
		perms = append(perms, granted)
		sort.Sort(perms)
	}
	return ev.writeRole(&authpb.Role{Name: role.Name, KeyPermission: perms}, ev.nextAuth())
}

func sameRange(p *authpb.Permission, key, rangeEnd []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, rangeEnd)
}

func (ev *evaluator) roleRevokePermission(r *pb.AuthRoleRevokePermissionRequest) error {
	role := ev.b.ix.Role(r.Role)
	if role == nil {
		return ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(role.KeyPermission), func(p *authpb.Permission) bool {
		return sameRange(p, r.Key, r.RangeEnd)
	})
	if len(left) == len(role.KeyPermission) {
		return ErrPermissionNotGranted
	}
	return ev.writeRole(&authpb.Role{Name: role.Name, KeyPermission: left}, ev.nextAuth())
}
