package etcdv3

import (
	"context"
	"encoding/base64"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// authServer keeps users and roles as an etcd does whose auth is off. It cannot be enabled yet.
//
// A password is hashed before it goes on from here, and what goes on has the hash alone. Like etcd's, these
// requests are taken whatever alarms are on, and how much space is left.
type authServer struct {
	*Server
	pb.UnsafeAuthServer
}

// committed sends a request through the log and completes the header of the response.
func committed[R interface{ GetHeader() *pb.ResponseHeader }](ctx context.Context, s *Server, request proto.Message) (R, error) {
	resp, err := s.commit(ctx, request)
	if err != nil {
		var none R
		return none, err
	}
	r := resp.(R)
	s.fill(r.GetHeader())
	return r, nil
}

// current gives an index that answers a request to read, and the header that goes with it.
func (s *authServer) current(ctx context.Context, request proto.Message) (*mvcc.Index, *pb.ResponseHeader, error) {
	// In etcd such a request goes through the log, too.
	if _, err := s.checkSize(request); err != nil {
		return nil, nil, err
	}
	ix, err := s.opts.Store.Linearizable(ctx)
	if err != nil {
		return nil, nil, grpcError(err)
	}
	return ix, s.fill(&pb.ResponseHeader{Revision: ix.Rev}), nil
}

// hash gives the hash of a password, in base64. Its errors are bcrypt's, and do not show the password.
func (s *authServer) hash(password string) (string, error) {
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), s.opts.BcryptCost)
	if err != nil {
		return "", status.Error(codes.Unknown, err.Error())
	}
	return base64.StdEncoding.EncodeToString(hashed), nil
}

func (s *authServer) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	ix, header, err := s.current(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.AuthStatusResponse{Header: header, AuthRevision: uint64(ix.AuthRev)}, nil
}

func (s *authServer) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	ix, _, err := s.current(ctx, r)
	if err != nil {
		return nil, err
	}
	root := ix.User(mvcc.RootName)
	switch {
	case root == nil:
		return nil, rpctypes.ErrGRPCRootUserNotExist
	case !root.Has(mvcc.RootName):
		return nil, rpctypes.ErrGRPCRootRoleNotExist
	}
	return nil, status.Error(codes.Unimplemented, "keelson: authentication cannot be enabled by this version")
}

func (s *authServer) AuthDisable(context.Context, *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return &pb.AuthDisableResponse{Header: s.fill(nil)}, nil
}

func (s *authServer) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return nil, rpctypes.ErrGRPCAuthNotEnabled
}

func (s *authServer) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	var err error
	if r.Options.GetNoPassword() {
		_, err = s.checkSize(r) // a password that nobody needs counts in etcd, and goes no further here
	} else {
		r.HashedPassword, err = s.hash(r.Password)
	}
	if err != nil {
		return nil, err
	}
	r.Password = ""
	return committed[*pb.AuthUserAddResponse](ctx, s.Server, r)
}

// UserChangePassword takes a hash in place of a password, as etcd's does.
func (s *authServer) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	if r.Password != "" {
		var err error
		if r.HashedPassword, err = s.hash(r.Password); err != nil {
			return nil, err
		}
		r.Password = ""
	}
	return committed[*pb.AuthUserChangePasswordResponse](ctx, s.Server, r)
}

func (s *authServer) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return committed[*pb.AuthUserDeleteResponse](ctx, s.Server, r)
}

func (s *authServer) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return committed[*pb.AuthUserGrantRoleResponse](ctx, s.Server, r)
}

func (s *authServer) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return committed[*pb.AuthUserRevokeRoleResponse](ctx, s.Server, r)
}

func (s *authServer) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	ix, header, err := s.current(ctx, r)
	if err != nil {
		return nil, err
	}
	u := ix.User(r.Name)
	if u == nil {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	return &pb.AuthUserGetResponse{Header: header, Roles: u.Roles}, nil
}

func (s *authServer) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	ix, header, err := s.current(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := &pb.AuthUserListResponse{Header: header}
	for name := range ix.Users() {
		resp.Users = append(resp.Users, name)
	}
	return resp, nil
}

func (s *authServer) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return committed[*pb.AuthRoleAddResponse](ctx, s.Server, r)
}

func (s *authServer) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return committed[*pb.AuthRoleDeleteResponse](ctx, s.Server, r)
}

func (s *authServer) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return committed[*pb.AuthRoleGrantPermissionResponse](ctx, s.Server, r)
}

func (s *authServer) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return committed[*pb.AuthRoleRevokePermissionResponse](ctx, s.Server, r)
}

// RoleGet tells of root that it may do everything, whatever it has been granted.
func (s *authServer) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	ix, header, err := s.current(ctx, r)
	if err != nil {
		return nil, err
	}
	role := ix.Role(r.Role)
	switch {
	case role == nil:
		return nil, rpctypes.ErrGRPCRoleNotFound
	case r.Role == mvcc.RootName:
		all := &authpb.Permission{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}
		return &pb.AuthRoleGetResponse{Header: header, Perm: []*authpb.Permission{all}}, nil
	}
	return &pb.AuthRoleGetResponse{Header: header, Perm: role.KeyPermission}, nil
}

func (s *authServer) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	ix, header, err := s.current(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := &pb.AuthRoleListResponse{Header: header}
	for name := range ix.Roles() {
		resp.Roles = append(resp.Roles, name)
	}
	return resp, nil
}
