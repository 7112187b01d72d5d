package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"

	"github.com/keelson-io/keelson/test/kube/process"
)

// member connects to one member with the certificate that kubeadm gives to its health checks.
func (h *host) member(t *testing.T) *clientv3.Client {
	t.Helper()
	tls, err := transport.TLSInfo{
		CertFile: h.pki(constants.EtcdHealthcheckClientCertName), KeyFile: h.pki(constants.EtcdHealthcheckClientKeyName),
		TrustedCAFile: h.pki(constants.EtcdCACertName),
	}.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{h.Endpoint()}, TLS: tls, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// leader is the index of the one that all of them name as their leader.
func leader(t *testing.T, hosts []*host) int {
	t.Helper()
	found := -1
	clients := connect(t, hosts)
	await(t, "one leader", func(ctx context.Context) error {
		named := map[uint64]bool{}
		for i, client := range clients {
			status, err := client.Status(ctx, hosts[i].Endpoint())
			if err != nil {
				return err
			}
			if status.Leader == status.Header.MemberId {
				found = i
			}
			named[status.Leader] = true
		}
		if found < 0 || len(named) != 1 {
			return fmt.Errorf("they name %v", named)
		}
		return nil
	})
	return found
}

// checkMembers checks that each of the members says that they are all there are, that all vote, and that all have the same data.
func checkMembers(t *testing.T, hosts []*host) {
	t.Helper()
	clients := connect(t, hosts)
	var want []string
	for _, h := range hosts {
		want = append(want, fmt.Sprintf("%s %s %s learner=false", h.name(), h.peerURL(), h.Endpoint()))
	}
	slices.Sort(want)
	for i, client := range clients {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		list, err := client.MemberList(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range list.Members {
			got = append(got, fmt.Sprintf("%s %s %s learner=%t", m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","), m.IsLearner))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s says that the members are\n%s\nwant\n%s", hosts[i].name(), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	await(t, "equal hashes", func(ctx context.Context) error { return equalHashes(ctx, hosts, clients) })
}

// equalHashes asks all members for their hash at one revision. kube-apiserver may compact in between, which is why it is tried again.
func equalHashes(ctx context.Context, hosts []*host, clients []*clientv3.Client) error {
	get, err := clients[0].Get(ctx, "none")
	if err != nil {
		return err
	}
	var hashes []string
	for i, client := range clients {
		hash, err := client.HashKV(ctx, hosts[i].Endpoint(), get.Header.Revision)
		if err != nil {
			return err
		}
		hashes = append(hashes, fmt.Sprintf("%08x at %d since %d", hash.Hash, hash.HashRevision, hash.CompactRevision))
	}
	if len(slices.Compact(slices.Clone(hashes))) != 1 {
		return fmt.Errorf("they differ: %v", hashes)
	}
	return nil
}

func connect(t *testing.T, hosts []*host) []*clientv3.Client {
	t.Helper()
	var clients []*clientv3.Client
	for _, h := range hosts {
		clients = append(clients, h.member(t))
	}
	return clients
}

func await(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := process.Await(ctx, what, check); err != nil {
		t.Fatal(err)
	}
}
