package mvcc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// authModel is the naive store of users and roles. The order of permissions of one key is no business of
// it; the scripts that etcd answered say that.
type authModel struct {
	rev   int64
	users map[string]modelUser
	roles map[string][]modelPermission
}

type modelUser struct {
	password   string // hashed
	noPassword bool
	roles      map[string]bool
}

type modelPermission struct {
	key, end string
	kind     authpb.Permission_Type
}

func newAuthModel() authModel {
	return authModel{rev: 1, users: map[string]modelUser{}, roles: map[string][]modelPermission{}}
}

func (m *authModel) request(request any) (err error) {
	rev := m.rev
	defer func() {
		if err != nil {
			m.rev = rev
		}
	}()
	m.rev++
	switch r := request.(type) {
	case *pb.AuthUserAddRequest:
		return m.userAdd(r)
	case *pb.AuthUserDeleteRequest:
		if _, ok := m.users[r.Name]; !ok {
			return ErrUserNotFound
		}
		delete(m.users, r.Name)
	case *pb.AuthUserChangePasswordRequest:
		return m.userChangePassword(r)
	case *pb.AuthUserGrantRoleRequest:
		_, there := m.roles[r.Role]
		if u, ok := m.users[r.User]; !ok {
			return ErrUserNotFound
		} else if !there && r.Role != "root" {
			return ErrRoleNotFound
		} else if u.roles[r.Role] {
			m.rev--
		} else {
			u.roles[r.Role] = true
		}
	case *pb.AuthUserRevokeRoleRequest:
		if u, ok := m.users[r.Name]; !ok {
			return ErrUserNotFound
		} else if !u.roles[r.Role] {
			return ErrRoleNotGranted
		} else {
			delete(u.roles, r.Role)
		}
	case *pb.AuthRoleAddRequest:
		if r.Name == "" {
			return ErrRoleEmpty
		}
		if _, ok := m.roles[r.Name]; ok {
			return ErrRoleExists
		}
		m.roles[r.Name] = nil
	case *pb.AuthRoleDeleteRequest:
		if _, ok := m.roles[r.Role]; !ok {
			return ErrRoleNotFound
		}
		delete(m.roles, r.Role)
		for _, u := range m.users {
			delete(u.roles, r.Role)
		}
	case *pb.AuthRoleGrantPermissionRequest:
		return m.grantPermission(r)
	case *pb.AuthRoleRevokePermissionRequest:
		return m.revokePermission(r)
	}
	return nil
}

func (m *authModel) userAdd(r *pb.AuthUserAddRequest) error {
	if r.Name == "" {
		return ErrUserEmpty
	}
	if _, ok := m.users[r.Name]; ok {
		return ErrUserExists
	}
	u := modelUser{noPassword: r.Options.GetNoPassword(), roles: map[string]bool{}}
	if !u.noPassword {
		b, err := base64.StdEncoding.DecodeString(r.HashedPassword)
		if err != nil {
			return ErrBadPassword
		}
		u.password = string(b)
	}
	m.users[r.Name] = u
	return nil
}

func (m *authModel) userChangePassword(r *pb.AuthUserChangePasswordRequest) error {
	u, ok := m.users[r.Name]
	if !ok {
		return ErrUserNotFound
	}
	if !u.noPassword {
		b, err := base64.StdEncoding.DecodeString(r.HashedPassword)
		if err != nil {
			return ErrBadPassword
		}
		u.password = string(b)
	}
	m.users[r.Name] = u
	return nil
}

func (m *authModel) grantPermission(r *pb.AuthRoleGrantPermissionRequest) error {
	if r.Perm == nil {
		return ErrPermissionNotGiven
	}
	p := modelPermission{string(r.Perm.Key), string(r.Perm.RangeEnd), r.Perm.PermType}
	if p.key == "" || p.end != "" && p.end != "\x00" && p.end <= p.key {
		return ErrInvalidAuthMgmt
	}
	perms, ok := m.roles[r.Name]
	if !ok {
		return ErrRoleNotFound
	}
	// randomAuth grants one range per key.
	if i := slices.IndexFunc(perms, func(q modelPermission) bool { return q.key == p.key && q.end == p.end }); i >= 0 {
		perms[i] = p
	} else {
		m.roles[r.Name] = append(perms, p)
	}
	return nil
}

func (m *authModel) revokePermission(r *pb.AuthRoleRevokePermissionRequest) error {
	perms, ok := m.roles[r.Role]
	if !ok {
		return ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(perms), func(p modelPermission) bool {
		return p.key == string(r.Key) && p.end == string(r.RangeEnd)
	})
	if len(left) == len(perms) {
		return ErrPermissionNotGranted
	}
	m.roles[r.Role] = left
	return nil
}

// compareAuth holds users and roles of an index against the model's.
func compareAuth(t *testing.T, ix *Index, m *authModel) {
	t.Helper()
	if ix.AuthRev != m.rev {
		t.Fatalf("auth revision %d, the model has %d", ix.AuthRev, m.rev)
	}
	var users, roles []string
	for name, u := range ix.Users() {
		users = append(users, name)
		want := m.users[name]
		has := slices.Sorted(maps.Keys(want.roles))
		if string(u.Password) != want.password || u.Options.GetNoPassword() != want.noPassword || !slices.Equal(u.Roles, has) {
			t.Fatalf("user %v, the model has %+v", u.User, want)
		}
	}
	for name, r := range ix.Roles() {
		roles = append(roles, name)
		var perms []modelPermission
		for _, p := range r.KeyPermission {
			perms = append(perms, modelPermission{string(p.Key), string(p.RangeEnd), p.PermType})
		}
		want := slices.Clone(m.roles[name])
		sort.Slice(want, func(i, j int) bool { return want[i].key < want[j].key })
		if !slices.Equal(perms, want) {
			t.Fatalf("role %q permits %+v, in the model %+v", name, perms, want)
		}
	}
	if want := slices.Sorted(maps.Keys(m.users)); !slices.Equal(users, want) {
		t.Fatalf("users %q, the model has %q", users, want)
	}
	if want := slices.Sorted(maps.Keys(m.roles)); !slices.Equal(roles, want) {
		t.Fatalf("roles %q, the model has %q", roles, want)
	}
}

// randomAuth makes a request that changes users or roles, or is refused.
func randomAuth(r *rand.Rand) any {
	user := []string{"", "alice", "bob", "root", "z"}[r.IntN(5)]
	role := []string{"", "a", "b", "c", "root"}[r.IntN(5)]
	hash := []string{"", "aGFzaA==", "aGFzaDI=", "no base64!"}[r.IntN(4)]
	key := []string{"", "a", "b", "c"}[r.IntN(4)]
	end := map[string]string{"": "x", "a": "", "b": "d", "c": "\x00"}[key]
	if r.IntN(8) == 0 {
		end = map[string]string{"": "\x00", "a": "a", "b": "a", "c": "b"}[key]
	}
	switch r.IntN(9) {
	case 0:
		return &pb.AuthUserAddRequest{Name: user, HashedPassword: hash, Options: &authpb.UserAddOptions{NoPassword: r.IntN(3) == 0}}
	case 1:
		return &pb.AuthUserDeleteRequest{Name: user}
	case 2:
		return &pb.AuthUserChangePasswordRequest{Name: user, HashedPassword: hash}
	case 3, 4:
		return &pb.AuthUserGrantRoleRequest{User: user, Role: role}
	case 5:
		return &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}
	case 6:
		if r.IntN(2) == 0 {
			return &pb.AuthRoleAddRequest{Name: role}
		}
		return &pb.AuthRoleDeleteRequest{Role: role}
	case 7:
		return &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(key), RangeEnd: []byte(end)}
	}
	grant := &pb.AuthRoleGrantPermissionRequest{Name: role}
	if r.IntN(10) > 0 {
		grant.Perm = &authpb.Permission{Key: []byte(key), RangeEnd: []byte(end), PermType: authpb.Permission_Type(r.IntN(3))}
	}
	return grant
}

// TestAuthRoundTrip: what the log is given is what comes out of it.
func TestAuthRoundTrip(t *testing.T) {
	for _, u := range []*authpb.User{
		{Name: []byte("u")},
		{Name: []byte("\x00\xff"), Password: []byte{0, 0xff}, Roles: []string{"a", "b"}, Options: &authpb.UserAddOptions{NoPassword: true}},
	} {
		for _, c := range []AuthChange{{2, false, 7}, {1 << 62, true, 7}} {
			meta, err := encodeAuth(c, u)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeUser(&drivers.Entry{Position: 7, Kind: KindUser, Meta: meta})
			if err != nil || got.AuthChange != c || !proto.Equal(got.User, u) {
				t.Errorf("%v %+v came back as %v, %v", u, c, got, err)
			}
		}
	}
	r := &authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{
		{Key: []byte("b"), PermType: authpb.Permission_WRITE}, {Key: []byte("a"), RangeEnd: []byte{0}}}}
	meta, err := encodeAuth(AuthChange{AuthRev: 9}, r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRole(&drivers.Entry{Position: 7, Kind: KindRole, Meta: meta})
	if want := (AuthChange{9, false, 7}); err != nil || got.AuthChange != want || !proto.Equal(got.Role, r) {
		t.Errorf("%v came back as %v, %v", r, got, err)
	}
	for _, bad := range [][]byte{nil, {2}, {1, 0, 10, 1, 'u'}, {2, 2, 10, 1, 'u'}, {2, 0}, {2, 0, 10, 9, 'u'}} {
		e := drivers.Entry{Position: 7, Meta: bad}
		if _, err := decodeUser(&e); !errors.Is(err, ErrBadEntry) {
			t.Errorf("%x is a user: %v", bad, err)
		}
		if _, err := decodeRole(&e); !errors.Is(err, ErrBadEntry) {
			t.Errorf("%x is a role: %v", bad, err)
		}
	}
}

// TestAuthRevisionStays is invariant I11, change by change: with everything scrubbed that is free, a log that is
// loaded gives the same users, roles and auth revision, and holds one entry for each of them and
// at most one that says that somebody is gone.
func TestAuthRevisionStays(t *testing.T) {
	l, ix := newTestLog(), NewIndex()
	add := func(user string) any { return &pb.AuthUserAddRequest{Name: user} }
	remove := func(user string) any { return &pb.AuthUserDeleteRequest{Name: user} }
	for i, step := range []struct {
		request any
		entries int // left in the log
	}{
		{add("u"), 1},
		{remove("u"), 1},
		{add("u"), 1},
		{&pb.AuthRoleAddRequest{Name: "r"}, 2},
		{&pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}, 2},
		{&pb.AuthRoleDeleteRequest{Role: "r"}, 1}, // the user's entry tells the revision
		{&pb.AuthRoleAddRequest{Name: "r"}, 2},
		{&pb.AuthRoleDeleteRequest{Role: "r"}, 2}, // nobody had it: the removal does
		{&pb.AuthUserChangePasswordRequest{Name: "u"}, 1},
		{remove("u"), 1},
		{add("v"), 1},
		{add("w"), 2},
		{remove("v"), 2},
		{remove("w"), 1},
	} {
		b, results := Evaluate(ix, Env{}, []any{step.request})
		if results[0].Err != nil {
			t.Fatal(results[0].Err)
		}
		ix = b.Index(l.append(b.Entries()))
		// The last position of a log is never scrubbed: this one says nothing.
		b, _ = Evaluate(ix, Env{}, []any{&Barrier{}})
		ix = b.Index(l.append(b.Entries()))
		pruned, freed := pruneAll(ix, 10)
		for _, p := range freed {
			delete(l.entries, p)
		}
		loaded := l.load(t)
		if loaded.AuthRev != int64(i)+2 || dump(loaded) != dump(pruned) {
			t.Fatalf("after %T the index is\n%s\nand loaded\n%s", step.request, dump(pruned), dump(loaded))
		}
		left := 0
		for _, e := range l.entries {
			if e.Kind != KindBarrier {
				left++
			}
		}
		if left != step.entries {
			t.Errorf("after %T %v there are %d entries, want %d", step.request, step.request, left, step.entries)
		}
		ix = pruned
	}
}

// TestRoleDeletedIsOneChange: all whom a role is taken from are changed in one revision and one batch.
func TestRoleDeletedIsOneChange(t *testing.T) {
	requests := []any{&pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthRoleAddRequest{Name: "s"}}
	const n = 100
	for i := range n {
		name := fmt.Sprintf("user%03d", i)
		requests = append(requests, &pb.AuthUserAddRequest{Name: name}, &pb.AuthUserGrantRoleRequest{User: name, Role: "s"})
		if i%2 == 0 {
			requests = append(requests, &pb.AuthUserGrantRoleRequest{User: name, Role: "r"})
		}
	}
	l := newTestLog()
	b, _ := Evaluate(NewIndex(), Env{}, requests)
	ix := b.Index(l.append(b.Entries()))
	if want := int64(len(requests)) + 1; ix.AuthRev != want {
		t.Fatalf("auth revision %d, want %d", ix.AuthRev, want)
	}
	b, _ = Evaluate(ix, Env{}, []any{&pb.AuthRoleDeleteRequest{Role: "r"}})
	if len(b.Entries()) != n/2+1 {
		t.Errorf("%d entries", len(b.Entries()))
	}
	after := b.Index(l.append(b.Entries()))
	if after.AuthRev != ix.AuthRev+1 || after.Role("r") != nil {
		t.Errorf("auth revision %d after %d, role %v", after.AuthRev, ix.AuthRev, after.Role("r"))
	}
	for name, u := range after.Users() {
		if !reflect.DeepEqual(u.Roles, []string{"s"}) {
			t.Errorf("%s has %q", name, u.Roles)
		}
		if !ix.User(name).Has("s") {
			t.Errorf("the index before has another %s", name)
		}
	}
	if dump(l.load(t)) != dump(after) {
		t.Error("the loaded index is another")
	}
}

// TestAuthUnderAlarms: users and roles are kept also where keys are not, as in etcd.
func TestAuthUnderAlarms(t *testing.T) {
	requests := []any{
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE},
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_CORRUPT},
		&pb.AuthUserAddRequest{Name: "u"},
		&pb.AuthRoleAddRequest{Name: "r"},
		&pb.AuthUserGrantRoleRequest{User: "u", Role: "r"},
	}
	b, results := Evaluate(NewIndex(), Env{}, requests)
	for i, res := range results {
		if res.Err != nil {
			t.Errorf("%T: %v", requests[i], res.Err)
		}
	}
	if u := b.Index(drivers.End{}).User("u"); u == nil || !u.Has("r") {
		t.Errorf("user %v", u)
	}
}

// TestUnwritable: a request that cannot be written down leaves nothing behind.
func TestUnwritable(t *testing.T) {
	spoiled := "\xff" // no gRPC request can have such a name, and no message of a user can hold it as a role
	b, results := Evaluate(NewIndex(), Env{}, []any{
		&pb.AuthRoleAddRequest{Name: spoiled}, &pb.AuthUserAddRequest{Name: "u"},
		&pb.AuthUserGrantRoleRequest{User: "u", Role: spoiled}, &pb.AuthUserAddRequest{Name: "v"},
	})
	if results[2].Err == nil || len(b.Entries()) != 3 || b.Index(drivers.End{}).AuthRev != 4 {
		t.Errorf("%v, %d entries", results[2].Err, len(b.Entries()))
	}
}

// TestPasswordsStayInside: nothing but the user's entry has the hash.
func TestPasswordsStayInside(t *testing.T) {
	hash := []byte("a hash that nobody sees")
	b, results := Evaluate(NewIndex(), Env{}, []any{
		&pb.AuthUserAddRequest{Name: "u", HashedPassword: base64.StdEncoding.EncodeToString(hash)},
		&pb.AuthUserDeleteRequest{Name: "u"},
	})
	for i, e := range b.Entries() {
		if has := bytes.Contains(e.Meta, hash) || bytes.Contains(e.Value, hash); has != (i == 0) {
			t.Errorf("entry %d has the hash: %v", i, has)
		}
	}
	for _, res := range results {
		if text := fmt.Sprint(res.Response, res.Err); bytes.Contains([]byte(text), hash) {
			t.Errorf("%s", text)
		}
	}
}

// TestLongNames: a name that etcd's file format cannot carry is refused.
func TestLongNames(t *testing.T) {
	fits, long := strings.Repeat("n", maxName), strings.Repeat("n", maxName+1)
	b, results := Evaluate(NewIndex(), Env{}, []any{
		&pb.AuthUserAddRequest{Name: fits}, &pb.AuthRoleAddRequest{Name: fits}, &pb.AuthUserGrantRoleRequest{User: fits, Role: fits},
		&pb.AuthUserAddRequest{Name: long}, &pb.AuthRoleAddRequest{Name: long},
	})
	for i, want := range []error{nil, nil, nil, ErrNameTooLong, ErrNameTooLong} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("request %d: %v, want %v", i, results[i].Err, want)
		}
	}
	if len(b.Entries()) != 3 {
		t.Errorf("%d entries", len(b.Entries()))
	}
}
