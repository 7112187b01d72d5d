package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/test/kube/process"
	"github.com/keelson-io/keelson/test/kube/storage"
)

const (
	// patience bounds every wait. It is what a loaded machine may need, not what is expected.
	patience = 3 * time.Minute
	// eventTTL is how long events live in these tests.
	eventTTL = 15 * time.Second
	// compactionInterval makes kube-apiserver compact while the tests run.
	compactionInterval = 15 * time.Second
	nodeCount          = 3
)

// server is one storage server.
type server interface {
	Endpoint() string
	Kill()
	Restart(ctx context.Context) error
	Stop() error
	Tail(lines int) string
}

// harness is a control plane on one storage server or several, with clients.
type harness struct {
	storage    []server
	access     Options // has the files with which clients come to them
	dir        string
	cluster    *Cluster
	kube       *kubernetes.Clientset
	dynamic    *dynamic.DynamicClient
	extensions *apiextensions.Clientset
	binDir     string
	// leader is the index of the storage server that leads the others, nil if they are equal.
	leader func(t *testing.T) int
}

// newHarness starts a control plane on storage servers with these names, which share a database if there are several.
func newHarness(t *testing.T, names ...string) *harness {
	t.Helper()
	h := emptyHarness(t)
	var place storage.Datastore
	if len(names) > 1 {
		var err error
		if place, err = storage.Postgres(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		s, err := storage.Start(t.Context(), storage.Options{Dir: h.dir, Name: name, Datastore: place, Flags: []string{"--history-retention=1h"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
		h.storage = append(h.storage, s)
	}
	h.startAPI(t, Options{})
	if err := h.cluster.StartControllers(); err != nil {
		t.Fatal(err)
	}
	return h
}

// emptyHarness has a directory, and nothing that runs.
func emptyHarness(t *testing.T) *harness {
	t.Helper()
	binDir, err := storage.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	return &harness{binDir: binDir, dir: keptDir(t, filepath.Join(filepath.Dir(binDir), "kube-test"))}
}

// startAPI starts kube-apiserver on the storage servers, with o for what is not the same in all tests.
func (h *harness) startAPI(t *testing.T, o Options) {
	t.Helper()
	var endpoints []string
	for _, s := range h.storage {
		endpoints = append(endpoints, s.Endpoint())
	}
	o.BinDir, o.Dir, o.StorageEndpoint = h.binDir, h.dir, strings.Join(endpoints, ",")
	o.EventTTL, o.CompactionInterval = eventTTL, compactionInterval
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, h.storageTails(40))
	}
	h.cluster, h.access = c, o
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s%s", c.Tails(60), h.storageTails(60))
		}
		c.Stop()
	})
	h.connect(t)
}

func (h *harness) storageTails(lines int) string {
	var b strings.Builder
	for _, s := range h.storage {
		b.WriteString(s.Tail(lines))
	}
	return b.String()
}

// keptDir makes a directory under parent that stays when the test fails, so that its logs can be read.
func keptDir(t *testing.T, parent string) string {
	t.Helper()
	if err := os.MkdirAll(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(parent, "run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("data and logs are in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (h *harness) connect(t *testing.T) {
	t.Helper()
	config, err := h.cluster.Config()
	if err != nil {
		t.Fatal(err)
	}
	if h.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if h.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if h.extensions, err = apiextensions.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
}

// await waits until check finds nothing wrong, and fails the test when it does not, or when a component ends.
func (h *harness) await(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := process.Await(ctx, what, func(ctx context.Context) error {
		if err := h.cluster.Exited(); err != nil {
			return process.GiveUp(err)
		}
		return check(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// kubectl runs a command as a user would, with input on stdin, and gives what it prints.
func (h *harness) kubectl(t *testing.T, input string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(h.binDir, "kubectl"), arguments...)
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+h.cluster.Kubeconfig("admin"))
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(arguments, " "), err, stdout, &stderr)
	}
	return string(stdout)
}

// createNodes makes nodes and waits until kwok has made them ready.
func (h *harness) createNodes(t *testing.T) {
	t.Helper()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("32"),
		corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourcePods:   resource.MustParse("110"),
	}
	for i := range nodeCount {
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)},
			Status:     corev1.NodeStatus{Capacity: capacity, Allocatable: capacity},
		}
		if _, err := h.kube.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	h.await(t, "ready nodes", func(ctx context.Context) error {
		nodes, err := h.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, node := range nodes.Items {
			if nodeReady(&node) {
				ready++
			}
		}
		return wantCount(ready, nodeCount)
	})
}

func nodeReady(node *corev1.Node) bool {
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady {
			return false
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// createNamespace makes a namespace in which pods can be made.
func (h *harness) createNamespace(t *testing.T, name string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := h.kube.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.await(t, "the service account of namespace "+name, func(ctx context.Context) error {
		_, err := h.kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// awaitPods waits until exactly n pods of an application are there, all running, all of one image.
func (h *harness) awaitPods(t *testing.T, namespace, image string, n int) {
	t.Helper()
	h.await(t, fmt.Sprintf("%d pods of %s", n, image), func(ctx context.Context) error {
		pods, err := h.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + application})
		if err != nil {
			return err
		}
		running, others := 0, []string{}
		for _, pod := range pods.Items {
			if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && pod.Spec.Containers[0].Image == image {
				running++
				continue
			}
			others = append(others, fmt.Sprintf("%s (%s, node %q, deleted %v, image %s)",
				pod.Name, pod.Status.Phase, pod.Spec.NodeName, pod.DeletionTimestamp, pod.Spec.Containers[0].Image))
		}
		if running != n || len(others) != 0 {
			return fmt.Errorf("%d run, want %d; others are %v", running, n, others)
		}
		return nil
	})
}

func wantCount(got, want int) error {
	if got != want {
		return fmt.Errorf("%d, want %d", got, want)
	}
	return nil
}
