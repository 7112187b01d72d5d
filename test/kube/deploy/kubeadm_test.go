package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
	etcdphase "k8s.io/kubernetes/cmd/kubeadm/app/phases/etcd"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/config"
)

const files = "../../../deploy/kubeadm/"

// load has kubeadm read a configuration as `kubeadm init --config` does, with the node's name and address added.
func load(t *testing.T, name string) *kubeadmapi.InitConfiguration {
	t.Helper()
	content, err := os.ReadFile(files + name)
	if err != nil {
		t.Fatal(err)
	}
	const node = `
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.0.0.1}
nodeRegistration: {name: node1}
`
	c, err := config.BytesToInitConfiguration(append(content, node...), true)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// manifest is what `kubeadm init` writes for the etcd of a node.
func manifest(t *testing.T, c *kubeadmapi.InitConfiguration) string {
	t.Helper()
	dir := t.TempDir()
	err := etcdphase.CreateLocalEtcdStaticPodManifestFile(dir, "", c.NodeRegistration.Name, &c.ClusterConfiguration, &c.LocalAPIEndpoint, false)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(constants.GetStaticPodFilepath(constants.Etcd, dir))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// differing are the lines of a and b that differ.
func differing(t *testing.T, a, b string) (of, to []string) {
	t.Helper()
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	if len(as) != len(bs) {
		t.Fatalf("%d lines and %d lines:\n%s\n%s", len(as), len(bs), a, b)
	}
	for i := range as {
		if as[i] != bs[i] {
			of, to = append(of, as[i]), append(to, bs[i])
		}
	}
	return of, to
}

// TestManifest compares our manifest with kubeadm's own: the image is another one, and that is all.
func TestManifest(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(files, "etcd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ours := string(content)
	for strings.HasPrefix(ours, "#") {
		_, ours, _ = strings.Cut(ours, "\n")
	}
	c := load(t, "local.yaml")
	if got := manifest(t, c); got != ours {
		t.Errorf("kubeadm writes with local.yaml:\n%s\nwe ship:\n%s", got, ours)
	}
	c.Etcd.Local.ImageRepository, c.Etcd.Local.ImageTag = "", ""
	of, to := differing(t, manifest(t, c), ours)
	if len(of) != 1 || of[0] != "    image: registry.k8s.io/etcd:"+constants.DefaultEtcdVersion || to[0] != "    image: registry.example/keelson/etcd:3.7.3-0" {
		t.Errorf("%q became %q, and only the image should", of, to)
	}
}

// TestExternal has kubeadm read external.yaml, and make of it what it tells kube-apiserver.
func TestExternal(t *testing.T) {
	c := load(t, "external.yaml")
	e := c.Etcd.External
	if c.Etcd.Local != nil || e == nil {
		t.Fatalf("kubeadm would run an etcd itself: %+v", c.Etcd)
	}
	if len(e.Endpoints) != 3 || e.CAFile == "" || e.CertFile == "" || e.KeyFile == "" {
		t.Errorf("kubeadm reads %+v", e)
	}
}
