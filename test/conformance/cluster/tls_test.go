package cluster

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/listen"
)

// TestToPeerTLS takes a cluster from http to https between its members, in the steps of docs/raft.md. It takes writes by every member at every step, also between the
// change of a member's URL and its restart.
func TestToPeerTLS(t *testing.T) {
	c := newCluster(t)
	// One certificate for all, that vouches for itself.
	pair, err := listen.SelfSigned(t.TempDir(), []url.URL{{Scheme: "https", Host: "127.0.0.1"}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"--peer-cert-file=" + pair.CertFile, "--peer-key-file=" + pair.KeyFile, "--peer-trusted-ca-file=" + pair.CertFile, "--peer-client-cert-auth"}
	c.writes()
	for _, n := range c.nodes {
		c.restart(n, files...)
		c.writes()
	}
	for i, n := range c.nodes {
		n.peerURL = strings.Replace(n.peerURL, "http:", "https:", 1)
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		if _, err := c.nodes[(i+1)%3].MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: n.id, PeerURLs: []string{n.peerURL}}); err != nil {
			t.Fatal(err)
		}
		c.writes()
		c.restart(n, append([]string{"--listen-peer-urls=" + n.peerURL, "--initial-advertise-peer-urls=" + n.peerURL}, files...)...)
		c.writes()
	}
	for _, n := range c.nodes {
		l, err := n.MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range l.Members {
			if len(m.PeerURLs) != 1 || !strings.HasPrefix(m.PeerURLs[0], "https:") {
				t.Errorf("%v", m)
			}
		}
	}
}

// restart stops a member and starts it with these flags.
func (c *cluster) restart(n *node, flags ...string) {
	c.t.Helper()
	if err := errors.Join(n.Stop(), n.RestartWith(c.t.Context(), flags...)); err != nil {
		c.t.Fatal(err)
	}
}

// writes has every member take a write.
func (c *cluster) writes() {
	c.t.Helper()
	for _, n := range c.nodes {
		c.until("a write by "+n.name, func(ctx context.Context) bool {
			_, err := n.Put(ctx, &pb.PutRequest{Key: []byte(n.name)})
			return err == nil
		})
	}
}
