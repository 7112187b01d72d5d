package cluster

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// keelson runs a subcommand of keelson against the first storage server.
func (h *harness) keelson(t *testing.T, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	arguments = append(slices.Clone(arguments), "--endpoints="+h.storage[0].Endpoint(), "--cacert="+h.access.StorageCA, "--cert="+h.access.StorageCert, "--key="+h.access.StorageKey)
	cmd := exec.CommandContext(ctx, filepath.Join(h.binDir, "keelson"), arguments...)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("keelson %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// client is a client of the first storage server.
func (h *harness) client(t *testing.T) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{Endpoints: []string{h.storage[0].Endpoint()}, Logger: zap.NewNop()}
	if h.access.StorageCA != "" {
		var err error
		config.TLS, err = transport.TLSInfo{CertFile: h.access.StorageCert, KeyFile: h.access.StorageKey, TrustedCAFile: h.access.StorageCA}.ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// compact compacts everything, and removes what that frees.
func compact(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	now, err := c.Get(ctx, "/registry/", clientv3.WithCountOnly())
	if err == nil {
		_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	}
	// kube-apiserver may have compacted a later revision just now.
	if err != nil && !strings.Contains(err.Error(), "has been compacted") {
		t.Fatal(err)
	}
}

// testUndo deletes a namespace, compacts, and takes it back: with its objects as they were, which go on to be used.
func testUndo(t *testing.T, h *harness) {
	const namespace = "mistake"
	h.createNamespace(t, namespace)
	maps0 := h.kube.CoreV1().ConfigMaps(namespace)
	for i := range 20 {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("object-", i)}, Data: map[string]string{"key": fmt.Sprint(i)}}
		if _, err := maps0.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	h.kubectl(t, deployment("shop:1", 3), "--namespace="+namespace, "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:1", 3)
	c := h.client(t)
	stored := func() map[string]string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		resp, err := c.Get(ctx, "/registry/configmaps/"+namespace+"/object-", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, kv := range resp.Kvs {
			found[string(kv.Key)] = string(kv.Value)
		}
		return found
	}
	list := func(ctx context.Context) (revision string, found map[types.UID]string, err error) {
		objects, err := maps0.List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", nil, err
		}
		found = map[types.UID]string{}
		for _, o := range objects.Items {
			if o.Name != "kube-root-ca.crt" { // a controller makes it, whenever it is missing
				found[o.UID] = fmt.Sprint(o.Name, o.Data, o.CreationTimestamp)
			}
		}
		return objects.ResourceVersion, found, nil
	}
	revision, before, err := list(t.Context())
	keys := stored()
	if err != nil || len(before) != 20 || len(keys) != 20 {
		t.Fatalf("%d objects, %d keys, %v", len(before), len(keys), err)
	}

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
	compact(t, c)

	told := h.keelson(t, "history", "/registry/configmaps/"+namespace+"/object-7", "--exact", "--diff")
	for _, want := range []string{"created  /registry/configmaps/mistake/object-7", "+kind: ConfigMap", "+  key: \"7\"", "deleted  /registry/configmaps/mistake/object-7", "-  name: object-7"} {
		if !strings.Contains(told, want) {
			t.Errorf("history does not tell of %q:\n%s", want, told)
		}
	}
	// Pods are left out: the deployment makes new ones.
	rewind := []string{"rewind", "--namespace=" + namespace, "--to=" + revision, "--exclude=/registry/pods/", "--exclude=/registry/events/"}
	dry := h.keelson(t, rewind...)
	if !strings.Contains(dry, "created again  /registry/namespaces/mistake ") || !strings.Contains(dry, "Nothing has been changed") {
		t.Errorf("the dry run says:\n%s", dry)
	}
	if _, err := h.kube.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a dry run the namespace is there: %v", err)
	}
	done := h.keelson(t, append(rewind, "--apply")...)
	t.Logf("rewind says:\n%s", done)

	if now := stored(); !maps.Equal(keys, now) {
		t.Errorf("the keys are %q, want %q", now, keys)
	}
	// kube-apiserver takes in the changes of one revision one after another, and answers in between.
	h.await(t, "what was there", func(ctx context.Context) error {
		_, after, err := list(ctx)
		if err == nil && !maps.Equal(before, after) {
			err = fmt.Errorf("there are %v, want %v", after, before)
		}
		return err
	})
	h.awaitPods(t, namespace, "shop:1", 3)
	h.kubectl(t, deployment("shop:2", 3), "--namespace="+namespace, "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:2", 3)
	if again := h.keelson(t, rewind...); strings.Contains(again, "/registry/configmaps/mistake/object-") {
		t.Errorf("there is something to do still:\n%s", again)
	}
}
