package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/certs"
	etcdphase "k8s.io/kubernetes/cmd/kubeadm/app/phases/etcd"
	etcdutil "k8s.io/kubernetes/cmd/kubeadm/app/util/etcd"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/staticpod"

	"github.com/keelson-io/keelson/test/kube/process"
	"github.com/keelson-io/keelson/test/kube/storage"
)

// probeTimeout is how long one probe may take, as kubeadm's manifests have it.
const probeTimeout = 15 * time.Second

// host is a control plane node as kubeadm sees it, an address of loopback with a directory, and the storage server on it. What it writes and
// asks is kubeadm's own code; in the place of the kubelet, the test starts what the manifest says.
type host struct {
	config  *kubeadmapi.InitConfiguration
	dir     string
	binary  string
	pod     *corev1.Pod // as the manifest has it
	process *process.Process
}

// newHosts makes nodes with certificates as `kubeadm init phase certs etcd-…` makes them, all of one authority.
func newHosts(t *testing.T, dir string, names ...string) []*host {
	t.Helper()
	binary, err := storage.Binary()
	if err != nil {
		t.Fatal(err)
	}
	// kubeadm's ports are fixed, so the addresses are what is free.
	network := fmt.Sprintf("127.%d.%d", 1+rand.IntN(254), rand.IntN(256))
	var hosts []*host
	for i, name := range names {
		h := &host{dir: filepath.Join(dir, name), binary: binary}
		h.config = kubeadmConfig(h.dir, name, fmt.Sprintf("%s.%d", network, i+1))
		hosts = append(hosts, h)
		if err := h.certify(hosts[0]); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	return hosts
}

func kubeadmConfig(dir, name, address string) *kubeadmapi.InitConfiguration {
	c := &kubeadmapi.InitConfiguration{LocalAPIEndpoint: kubeadmapi.APIEndpoint{AdvertiseAddress: address, BindPort: constants.KubeAPIServerPort}}
	c.NodeRegistration.Name = name
	c.KubernetesVersion = "v1.37.2"
	c.CertificatesDir = filepath.Join(dir, "pki")
	c.EncryptionAlgorithm = kubeadmapi.EncryptionAlgorithmRSA2048
	c.Etcd.Local = &kubeadmapi.LocalEtcd{
		DataDir: filepath.Join(dir, "data"),
		// The nodes have one loopback between them, so none may have 127.0.0.1.
		ExtraArgs: []kubeadmapi.Arg{
			{Name: "listen-client-urls", Value: etcdutil.GetClientURLByIP(address)},
			{Name: "listen-metrics-urls", Value: "http://" + net.JoinHostPort(address, strconv.Itoa(constants.EtcdMetricsPort))},
		},
	}
	return c
}

// certify makes the certificates. The first node makes the authority, which the others are given.
func (h *host) certify(first *host) error {
	pki := h.config.CertificatesDir
	if err := os.MkdirAll(filepath.Join(pki, "etcd"), 0o700); err != nil {
		return err
	}
	if h == first {
		if _, _, err := certs.KubeadmCertEtcdCA().CreateAsCA(h.config); err != nil {
			return err
		}
	} else {
		for _, name := range []string{constants.EtcdCACertName, constants.EtcdCAKeyName} {
			content, err := os.ReadFile(first.pki(name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(h.pki(name), content, 0o600); err != nil {
				return err
			}
		}
	}
	certificate, key, err := pkiutil.TryLoadCertAndKeyFromDisk(pki, constants.EtcdCACertAndKeyBaseName)
	if err != nil {
		return err
	}
	for _, c := range []*certs.KubeadmCert{
		certs.KubeadmCertEtcdServer(), certs.KubeadmCertEtcdPeer(), certs.KubeadmCertEtcdHealthcheck(), certs.KubeadmCertEtcdAPIClient(),
	} {
		if err := c.CreateFromCA(h.config, certificate, key); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) name() string           { return h.config.NodeRegistration.Name }
func (h *host) peerURL() string        { return etcdutil.GetPeerURL(&h.config.LocalAPIEndpoint) }
func (h *host) pki(name string) string { return filepath.Join(h.config.CertificatesDir, name) }
func (h *host) manifests() string      { return filepath.Join(h.dir, "manifests") }

// Endpoint is the client URL.
func (h *host) Endpoint() string { return etcdutil.GetClientURL(&h.config.LocalAPIEndpoint) }

// found writes the manifest of a member that is there from the beginning, alone or with others.
func (h *host) found(members ...*host) error {
	config := h.config.ClusterConfiguration.DeepCopy()
	config.Etcd.Local.ExtraArgs = append(config.Etcd.Local.ExtraArgs, kubeadmapi.Arg{Name: "history-retention", Value: "1h"})
	if len(members) > 1 {
		var all []string
		for _, m := range members {
			all = append(all, m.name()+"="+m.peerURL())
		}
		config.Etcd.Local.ExtraArgs = append(config.Etcd.Local.ExtraArgs, kubeadmapi.Arg{Name: "initial-cluster", Value: strings.Join(all, ",")})
	}
	return etcdphase.CreateLocalEtcdStaticPodManifestFile(h.manifests(), "", h.name(), config, &h.config.LocalAPIEndpoint, false)
}

// join does what `kubeadm join --control-plane` does about etcd, and returns when the member votes.
func (h *host) join(ctx context.Context, client kubernetes.Interface) error {
	if err := etcdphase.CheckLocalEtcdClusterStatus(client, h.config.CertificatesDir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	kubelet := make(chan error, 1)
	go func() { kubelet <- h.startWhenTold(ctx) }()
	err := etcdphase.CreateStackedEtcdStaticPodManifestFile(client, h.manifests(), "", h.name(), &h.config.ClusterConfiguration,
		&h.config.LocalAPIEndpoint, false, h.config.CertificatesDir)
	if err != nil {
		cancel(err)
	}
	if err := errors.Join(err, <-kubelet); err != nil {
		return fmt.Errorf("%s joins: %w\n%s", h.name(), err, h.Tail(40))
	}
	return h.mirror(ctx, client)
}

// startWhenTold starts the server when there is a manifest.
func (h *host) startWhenTold(ctx context.Context) error {
	err := process.Await(ctx, "the manifest of "+h.name(), func(context.Context) error {
		_, err := staticpod.ReadStaticPodFromDisk(constants.GetStaticPodFilepath(constants.Etcd, h.manifests()))
		return err
	})
	if err != nil {
		return err
	}
	return h.Restart(ctx)
}

// mirror shows the pod in the API, as a kubelet does with what it has of manifests. kubeadm finds the members by it.
func (h *host) mirror(ctx context.Context, client kubernetes.Interface) error {
	pod := h.pod.DeepCopy()
	pod.Name += "-" + h.name()
	pod.Annotations[corev1.MirrorPodAnnotationKey] = h.name()
	pod.Spec.NodeName = h.name()
	pods := client.CoreV1().Pods(pod.Namespace)
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("mirror the pod of %s: %w", h.name(), err)
	}
	made.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// reset does what `kubeadm reset` does about etcd, and waits for the end of the member that was removed.
func (h *host) reset(ctx context.Context, client kubernetes.Interface) error {
	if err := etcdphase.RemoveStackedEtcdMemberFromCluster(client, h.config); err != nil {
		return err
	}
	select {
	case <-h.process.Done():
	case <-ctx.Done():
		return fmt.Errorf("%s was removed and goes on: %w", h.name(), ctx.Err())
	}
	pods := client.CoreV1().Pods(h.pod.Namespace)
	now := int64(0)
	if err := pods.Delete(ctx, h.pod.Name+"-"+h.name(), metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(h.manifests()), os.RemoveAll(h.config.Etcd.Local.DataDir))
}

// start starts what the manifest says, with our program in the place of etcd.
func (h *host) start() error {
	var err error
	if h.pod, err = staticpod.ReadStaticPodFromDisk(constants.GetStaticPodFilepath(constants.Etcd, h.manifests())); err != nil {
		return err
	}
	h.process, err = process.Start(process.Command{
		Name: "member-" + h.name(), Path: h.binary, Args: h.pod.Spec.Containers[0].Command[1:], LogDir: h.dir,
	})
	return err
}

// Restart starts the server, also the first time, and returns when the manifest's startup probe finds it ready.
func (h *host) Restart(ctx context.Context) error {
	if err := h.start(); err != nil {
		return err
	}
	return h.await(ctx)
}

func (h *host) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	probe := h.pod.Spec.Containers[0].StartupProbe.HTTPGet
	var port string
	for _, p := range h.pod.Spec.Containers[0].Ports {
		if p.Name == probe.Port.String() {
			port = strconv.Itoa(int(p.ContainerPort))
		}
	}
	url := strings.ToLower(string(probe.Scheme)) + "://" + net.JoinHostPort(probe.Host, port) + probe.Path
	if err := h.process.Await(ctx, probe.Path, func(ctx context.Context) error { return get(ctx, url) }); err != nil {
		return fmt.Errorf("%w\n%s", err, h.Tail(40))
	}
	return nil
}

// get is what a kubelet does to probe.
func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// Lose implements restorable.
func (h *host) Lose(storage.Datastore) error { return os.RemoveAll(h.config.Etcd.Local.DataDir) }

// Place implements restorable: what the manifest says.
func (h *host) Place() []string {
	return storage.Place(h.pod.Spec.Containers[0].Command[1:])
}

// Kill ends the server as kill -9 does.
func (h *host) Kill() { h.process.Kill() }

// Stop ends the server, if it was started, as a kubelet does.
func (h *host) Stop() error {
	if h.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return h.process.Stop(ctx)
}

// Tail is the end of the server's log.
func (h *host) Tail(lines int) string {
	return process.Tail(filepath.Join(h.dir, "member-"+h.name()+".log"), lines)
}
