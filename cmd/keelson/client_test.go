package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// client gives the options that the arguments and the environment say.
func client(t *testing.T, environ []string, args ...string) *clientOptions {
	t.Helper()
	o := &clientOptions{}
	f := (&program{environ: environ}).flags("")
	o.define(f)
	if err := f.parseAlone(args); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestClientOptions: a flag comes before its variable, and that before what is usual.
func TestClientOptions(t *testing.T) {
	o := client(t, nil)
	if want := (clientOptions{endpoints: "127.0.0.1:2379", plain: true, dialTimeout: 5 * time.Second, keepaliveTime: 2 * time.Second, keepaliveTimeout: 6 * time.Second}); *o != want {
		t.Errorf("%+v", o)
	}
	o = client(t, []string{
		"ETCDCTL_ENDPOINTS=a:1,b:2", "ETCDCTL_CACERT=ca", "ETCDCTL_CERT=cert", "ETCDCTL_KEY=key", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY=true", "ETCDCTL_INSECURE_TRANSPORT=false",
		"ETCDCTL_USER=ann", "ETCDCTL_PASSWORD=secret", "ETCDCTL_DIAL_TIMEOUT=1s", "ETCDCTL_KEEPALIVE_TIME=11s", "ETCDCTL_KEEPALIVE_TIMEOUT=12s",
	}, "--key", "other", "--dial-timeout", "3s")
	if want := (clientOptions{
		endpoints: "a:1,b:2", caFile: "ca", certFile: "cert", keyFile: "other", skipVerify: true, user: "ann", password: "secret",
		dialTimeout: 3 * time.Second, keepaliveTime: 11 * time.Second, keepaliveTimeout: 12 * time.Second,
	}); *o != want {
		t.Errorf("%+v", o)
	}
}

// TestClientTarget: where an endpoint is, and whether TLS is spoken to it.
func TestClientTarget(t *testing.T) {
	for _, c := range []struct {
		endpoint, args, target string
		secure                 bool
	}{
		{"host:1", "", "passthrough:///host:1", false},
		{"host:1", "--cacert=f", "passthrough:///host:1", true},
		{"host:1", "--cert=f", "passthrough:///host:1", true},
		{"host:1", "--insecure-skip-tls-verify", "passthrough:///host:1", true},
		{"host:1", "--insecure-transport=false", "passthrough:///host:1", true},
		{"http://host:1/", "--cacert=f", "passthrough:///host:1", false},
		{"https://host:1", "", "passthrough:///host:1", true},
		{"unix:///run/k.sock", "", "unix:/run/k.sock", false},
		{"unixs://localhost:7", "", "unix:localhost:7", true},
		{"ftp://host:1", "", "", false},
		{"", "", "", false},
		{"http://", "", "", false},
	} {
		target, secure, err := client(t, nil, strings.Fields(c.args)...).target(c.endpoint)
		if target != c.target || secure != c.secure || (err == nil) != (c.target != "") {
			t.Errorf("%q %s: %q, %v, %v", c.endpoint, c.args, target, secure, err)
		}
	}
}

// TestClientConnect: the first that answers is asked, a socket in the file system too, and if there is none, it is said of each what is wrong.
func TestClientConnect(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterMaintenanceServer(server, &source{version: "over the socket"})
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	tcp, socket := serveSource(t, &source{version: "over TCP"}), "unix://"+l.Addr().String()
	for endpoints, want := range map[string]string{
		tcp:                             "over TCP",
		socket:                          "over the socket",
		"127.0.0.1:1," + tcp:            "over TCP",
		"127.0.0.1:1, http://" + tcp:    "over TCP",
		socket + "," + tcp:              "over the socket",
		"ftp://x," + socket + "," + tcp: "over the socket",
	} {
		conn, resp, err := client(t, []string{patient}, "--endpoints", endpoints).connect(t.Context())
		if err != nil {
			t.Errorf("%s: %v", endpoints, err)
			continue
		}
		if resp.Version != want {
			t.Errorf("%s: %q", endpoints, resp.Version)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	_, _, err = client(t, []string{patient}, "--endpoints", "127.0.0.1:1,ftp://x").connect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1: ") || !strings.Contains(err.Error(), "ftp://x: ") {
		t.Error(err)
	}
}

// TestClientUsage: what contradicts itself is wrong usage, and nobody is asked.
func TestClientUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "saved.db")
	for text, c := range map[string]struct{ env, args []string }{
		"ETCDCTL_DIAL_TIMEOUT":    {[]string{"ETCDCTL_DIAL_TIMEOUT=soon"}, nil},
		"ETCDCTL_COMMAND_TIMEOUT": {[]string{"ETCDCTL_COMMAND_TIMEOUT=soon"}, nil},
		"go together":             {nil, []string{"--cert", "c"}},
		"has no password":         {nil, []string{"--user", "ann"}},
		"one selected node":       {nil, []string{"--endpoints", "a:1,b:2"}},
	} {
		o := run(t, c.env, append([]string{"snapshot", "save", file}, c.args...)...)
		if o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
	}
}
