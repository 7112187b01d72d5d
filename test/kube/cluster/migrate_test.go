package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/test/kube/process"
	"github.com/keelson-io/keelson/test/kube/storage"
)

// kine is a kine on an SQLite file, with the parameters that k3s gives it.
type kine struct {
	dir, binary, file string
	port              int
	process           *process.Process
}

func startKine(t *testing.T, h *harness, file string) *kine {
	t.Helper()
	ports, err := process.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	k := &kine{dir: h.dir, binary: filepath.Join(h.binDir, "kine"), file: file, port: ports[0]}
	if err := k.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Kill)
	return k
}

func (k *kine) Endpoint() string      { return fmt.Sprintf("http://127.0.0.1:%d", k.port) }
func (k *kine) Kill()                 { k.process.Kill() }
func (k *kine) Tail(lines int) string { return k.process.Tail(lines) }

func (k *kine) Restart(ctx context.Context) (err error) {
	k.process, err = process.Start(process.Command{Name: "kine", Path: k.binary, LogDir: k.dir, Args: []string{
		"--endpoint=sqlite://" + k.file + "?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate",
		"--listen-address=tcp://" + strings.TrimPrefix(k.Endpoint(), "http://"), "--metrics-bind-address=0",
	}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return k.process.AwaitLog(ctx, "Kine available at")
}

func (k *kine) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return k.process.Stop(ctx)
}

// TestMigrated takes a control plane from kine's SQLite, as k3s has it, to Keelson and back. Objects are the same each time, to Keelson with their revisions, and controllers go on with
// what there is. On the way back there are events that expired together, at one revision, and kine has one change to a revision.
func TestMigrated(t *testing.T) {
	h := emptyHarness(t)
	first := filepath.Join(h.dir, "state.db")
	h.storage = []server{startKine(t, h, first)}
	h.startAPI(t, Options{})
	if err := h.cluster.StartControllers(); err != nil {
		t.Fatal(err)
	}
	const namespace = "moved"
	h.createNodes(t)
	h.createNamespace(t, namespace)
	h.kubectl(t, deployment("shop:1", 5), "--namespace="+namespace, "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:1", 5)
	h.writeObjects(t, namespace)
	before := h.leave(t, namespace)

	// kine is killed, which leaves the last changes in SQLite's own log.
	h.storage[0].Kill()
	data := filepath.Join(h.dir, "keelson.data")
	out := h.migrate(t, "kine+sqlite:"+first, "dir:"+data)
	t.Logf("from kine to Keelson:\n%s", out)
	keelson, err := storage.Start(t.Context(), storage.Options{Dir: h.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := keelson.Stop(); err != nil {
			t.Error(err)
		}
	})
	h.storage = []server{keelson}
	h.goOn(t, namespace, before, 8)
	h.await(t, "the expiry of events", func(ctx context.Context) error {
		events, err := h.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		return wantCount(len(events.Items), 0)
	})
	before = h.leave(t, namespace)

	if err := keelson.Stop(); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(h.dir, "back.db")
	out = h.migrate(t, "dir:"+data, "kine+sqlite:"+second, "--yes", "--renumber")
	t.Logf("from Keelson to kine:\n%s", out)
	h.storage = []server{startKine(t, h, second)}
	h.goOn(t, namespace, resourceVersion.ReplaceAllString(before, ""), 3)
}

var resourceVersion = regexp.MustCompile(`resourceVersion: "\d+"\n`)

// writeObjects makes, changes and deletes objects.
func (h *harness) writeObjects(t *testing.T, namespace string) {
	t.Helper()
	maps := h.kube.CoreV1().ConfigMaps(namespace)
	for i := range 60 {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("object-%d", i)}, Data: map[string]string{"key": strings.Repeat("x", i*100)}}
		object, err := maps.Create(t.Context(), object, metav1.CreateOptions{})
		if err == nil && i%2 == 0 {
			object.Data["more"] = "y"
			_, err = maps.Update(t.Context(), object, metav1.UpdateOptions{})
		}
		if err == nil && i%3 == 0 {
			err = maps.Delete(t.Context(), object.Name, metav1.DeleteOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// leave ends the control plane, and gives what there was in a namespace when there were no controllers any more.
func (h *harness) leave(t *testing.T, namespace string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for c := h.cluster; len(c.processes) > 1; {
		last := len(c.processes) - 1
		_ = c.processes[last].Stop(ctx) // what does not stop is killed
		c.processes = c.processes[:last]
	}
	objects := h.objects(t, namespace)
	h.cluster.Stop()
	return objects
}

// objects gives all there is of a namespace, with resource versions.
func (h *harness) objects(t *testing.T, namespace string) string {
	t.Helper()
	return h.kubectl(t, "", "--namespace="+namespace, "get", "deployments,replicasets,pods,configmaps,secrets,serviceaccounts", "--output=yaml")
}

// goOn starts the control plane on what has been moved, which is objects: without resource versions if they have none.
func (h *harness) goOn(t *testing.T, namespace, objects string, replicas int) {
	t.Helper()
	h.startAPI(t, Options{})
	got := h.objects(t, namespace)
	if !resourceVersion.MatchString(objects) {
		got = resourceVersion.ReplaceAllString(got, "")
	}
	if got != objects || !strings.Contains(got, "object-1\n") {
		t.Errorf("before it was moved there was\n%s\nand then\n%s", objects, got)
	}
	if err := h.cluster.StartControllers(); err != nil {
		t.Fatal(err)
	}
	h.kubectl(t, "", "--namespace="+namespace, "scale", "deployment/"+application, fmt.Sprintf("--replicas=%d", replicas))
	h.awaitPods(t, namespace, "shop:1", replicas)
}

func (h *harness) migrate(t *testing.T, from, to string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(h.binDir, "keelson"), append([]string{"migrate", "--from", from, "--to", to}, flags...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("migrate --from %s --to %s: %v\n%s", from, to, err, out)
	}
	return string(out)
}
