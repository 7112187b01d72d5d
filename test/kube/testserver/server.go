// Package testserver stands in for k8s.io/apiserver/pkg/storage/etcd3/testserver: the same two functions,
// but what they start is the storage server under test, as a process, in place of an etcd in the process
// of the test. With this file in the place of upstream's, upstream's tests run on any server.
package testserver

import (
	"fmt"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"github.com/keelson-io/keelson/test/kube/storage"
)

// NewTestConfig gives etcd's defaults. RunEtcd chooses the ports and the data directory.
func NewTestConfig(testing.TB) *embed.Config { return embed.NewConfig() }

// RunEtcd starts a server with an empty data directory, which ends with the test, and gives a client of it
// that records requests.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	s, err := storage.Start(t.Context(), storage.Options{
		Dir:    t.TempDir(),
		Flags:  flags(cfg),
		Secure: !cfg.ClientTLSInfo.Empty(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			fmt.Fprintln(os.Stderr, s.Tail(40))
		}
	})
	return connect(t, s, cfg)
}

// flags are what of the configuration upstream's tests set.
func flags(cfg *embed.Config) []string {
	var f []string
	if cfg.WatchProgressNotifyInterval != 0 {
		f = append(f, "--watch-progress-notify-interval="+cfg.WatchProgressNotifyInterval.String())
	}
	if cfg.QuotaBackendBytes != 0 {
		f = append(f, fmt.Sprintf("--quota-backend-bytes=%d", cfg.QuotaBackendBytes))
	}
	if tls := cfg.ClientTLSInfo; !tls.Empty() {
		f = append(f, "--cert-file="+tls.CertFile, "--key-file="+tls.KeyFile, "--trusted-ca-file="+tls.TrustedCAFile)
	}
	return f
}

func connect(t testing.TB, s *storage.Server, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	tls, err := cfg.ClientTLSInfo.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{s.Endpoint()},
		DialTimeout: 10 * time.Second,
		TLS:         tls,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	lists := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, lists)
	client.Kubernetes = lists
	return client
}
