package cluster

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
)

// secure are the files with which kube-apiserver comes to its storage.
func (h *host) secure() Options {
	return Options{
		StorageCA:   h.pki(constants.EtcdCACertName),
		StorageCert: h.pki(constants.APIServerEtcdClientCertName),
		StorageKey:  h.pki(constants.APIServerEtcdClientKeyName),
	}
}

// TestRaftControlPlane takes a control plane through the same on three members of a cluster by Raft, with certificates and command lines as
// kubeadm makes them. Each member is killed once, the leader first, and at the end all have the same.
func TestRaftControlPlane(t *testing.T) {
	h := emptyHarness(t)
	hosts := newHosts(t, h.dir, "cp1", "cp2", "cp3")
	for _, m := range hosts {
		h.storage = append(h.storage, m)
		if err := m.found(hosts...); err != nil {
			t.Fatal(err)
		}
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range hosts {
		if err := m.await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.leader = func(t *testing.T) int { return leader(t, hosts) }
	h.startAPI(t, hosts[0].secure())
	if err := h.cluster.StartControllers(); err != nil {
		t.Fatal(err)
	}
	takeThrough(t, h)
	checkMembers(t, hosts)
}

// TestKubeadmJoins begins with one member, as `kubeadm init` does, and brings two more as `kubeadm join --control-plane` does,
// takes one away as `kubeadm reset` does, and brings it back empty. Meanwhile no request to kube-apiserver fails.
func TestKubeadmJoins(t *testing.T) {
	const namespace = "grows"
	h := emptyHarness(t)
	hosts := newHosts(t, h.dir, "cp1", "cp2", "cp3")
	one, third := hosts[0], hosts[2]
	h.storage = []server{one}
	if err := one.found(); err != nil {
		t.Fatal(err)
	}
	if err := one.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.startAPI(t, one.secure())
	if err := one.mirror(t.Context(), h.kube); err != nil {
		t.Fatal(err)
	}
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := h.kube.CoreV1().Namespaces().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := informer(t, h, namespace)
	w := newLoad(h, namespace)
	stop := w.start(t)
	step := func(name string, change func() error, members ...*host) {
		t.Helper()
		w.awaitMore(t, writesBetween)
		if err := change(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, h.storageTails(40))
		}
		w.awaitMore(t, writesBetween)
		checkMembers(t, members)
	}
	join := func(m *host) func() error { return func() error { return m.join(t.Context(), h.kube) } }
	step("the second joins", join(hosts[1]), hosts[:2]...)
	step("the third joins", join(third), hosts...)
	step("the third is reset", func() error { return third.reset(t.Context(), h.kube) }, hosts[:2]...)
	step("the third joins again", join(third), hosts...)
	stop()
	t.Logf("%d writes were acknowledged", w.count())
	if err := first(w.failed); err != nil {
		t.Errorf("requests failed: %v", err)
	}
	h.await(t, "what was written", w.check)
	h.await(t, "everything in the informer", func(context.Context) error { return compare(w.written(), seen.Get) })
	if err := first(w.wrong); err != nil {
		t.Error(err)
	}
}
