package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// application is the label of the deployment's pods.
const application = "shop"

// TestControlPlane takes one control plane through what a cluster lives through. Each part has a namespace
// of its own; the storage server is killed last, when there is something to lose.
func TestControlPlane(t *testing.T) {
	takeThrough(t, newHarness(t, "default"))
}

// TestSharedControlPlane does the same with two servers on one Postgres in --etcd-servers. They are killed in turn, and
// while one is gone everything goes on by the other.
func TestSharedControlPlane(t *testing.T) {
	takeThrough(t, newHarness(t, "one", "two"))
}

func takeThrough(t *testing.T, h *harness) {
	h.createNodes(t)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, h *harness)
	}{
		{"Deployment", testDeployment},
		{"CustomResources", testCustomResources},
		{"NamespaceDeletion", testNamespaceDeletion},
		{"Undo", testUndo},
		{"EventsExpire", testEventsExpire},
		{"Restored", testRestored},
		{"StorageKilled", testStorageKilled},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, h) })
	}
}

// deployment is a manifest as a user would write it.
func deployment(image string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers: [{name: main, image: "%[2]s"}]
`, application, image, replicas)
}

func testDeployment(t *testing.T, h *harness) {
	const namespace = "deployment"
	h.createNamespace(t, namespace)
	kubectl := func(input string, arguments ...string) string {
		return h.kubectl(t, input, append([]string{"--namespace=" + namespace}, arguments...)...)
	}
	rolledOut := func() { kubectl("", "rollout", "status", "deployment/"+application, "--timeout=150s") }

	kubectl(deployment("shop:1", 6), "apply", "-f", "-")
	rolledOut()
	h.awaitPods(t, namespace, "shop:1", 6)

	kubectl("", "scale", "deployment/"+application, "--replicas=30")
	rolledOut()
	h.awaitPods(t, namespace, "shop:1", 30)

	kubectl(deployment("shop:2", 30), "apply", "-f", "-")
	rolledOut()
	h.awaitPods(t, namespace, "shop:2", 30)

	kubectl("", "scale", "deployment/"+application, "--replicas=3")
	h.awaitPods(t, namespace, "shop:2", 3)

	kubectl("", "delete", "deployment/"+application, "--cascade=foreground", "--timeout=150s")
	if left := kubectl("", "get", "deployments,replicasets,pods", "--output=name"); left != "" {
		t.Errorf("left after the deletion:\n%s", left)
	}
}

func testNamespaceDeletion(t *testing.T, h *harness) {
	const namespace = "doomed"
	h.createNamespace(t, namespace)
	for i := range 30 {
		name := fmt.Sprintf("object-%d", i)
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": name}}
		if _, err := h.kube.CoreV1().ConfigMaps(namespace).Create(t.Context(), configMap, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"key": {0, 255}}}
		if _, err := h.kube.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	h.kubectl(t, deployment("shop:1", 5), "--namespace="+namespace, "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:1", 5)
	if err := h.kube.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.await(t, "the end of the namespace", func(ctx context.Context) error {
		left, err := h.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("still there: %v", left.Status.Conditions)
	})
	list, err := h.kube.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 0 {
		t.Errorf("%d objects outlived their namespace", len(list.Items))
	}
}

// testEventsExpire checks that events are there for their time and go by themselves, and that a watch says so.
func testEventsExpire(t *testing.T, h *harness) {
	const namespace, count = "events", 20
	h.createNamespace(t, namespace)
	events := h.kube.CoreV1().Events(namespace)
	before, err := events.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watcher, err := events.Watch(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion, FieldSelector: "reason=Tested"})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	created := map[string]time.Time{}
	for i := range count {
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("event-%d", i), Namespace: namespace},
			InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Name: namespace, Namespace: namespace},
			Reason:         "Tested",
			Type:           corev1.EventTypeNormal,
		}
		created[event.Name] = time.Now()
		if _, err := events.Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	added := 0
	for len(created) > 0 {
		event, open := <-watcher.ResultChan()
		if !open {
			t.Fatalf("the watch ended (%v) with %d of %d events seen and %d not expired", ctx.Err(), added, count, len(created))
		}
		object, ok := event.Object.(*corev1.Event)
		if !ok {
			t.Fatalf("the watch gave %s %v", event.Type, event.Object)
		}
		switch event.Type {
		case watch.Added:
			added++
		case watch.Deleted:
			// A lease may end late, never early.
			if lived := time.Since(created[object.Name]); lived < eventTTL {
				t.Errorf("%s was gone after %v, its TTL is %v", object.Name, lived, eventTTL)
			}
			delete(created, object.Name)
		default:
			t.Fatalf("%s was %s", object.Name, event.Type)
		}
	}
	if added != count {
		t.Errorf("%d events were added, want %d", added, count)
	}
	left, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Tested"})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("%d events are left (%v)", len(left.Items), err)
	}
}
