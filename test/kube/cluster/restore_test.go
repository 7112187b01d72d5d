package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/test/kube/storage"
)

// restorable is a storage server whose data can be lost and restored.
type restorable interface {
	server
	// Lose removes the data of a server that has ended. One that shares its log is given another place.
	Lose(storage.Datastore) error
	// Place gives the flags by which keelson snapshot restore puts data where the server looks for them.
	Place() []string
}

// bump is more than anybody can have written since the snapshot.
const bump = 1_000_000_000

// restore destroys all storage servers and their data, as a fire does, and starts them on a snapshot.
func (h *harness) restore(t *testing.T, file string) {
	t.Helper()
	var place storage.Datastore
	if _, shared := h.storage[0].(*storage.Server); shared && len(h.storage) > 1 {
		var err error
		if place, err = storage.Postgres(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var places []string
	for _, s := range h.storage {
		s.Kill()
	}
	for _, s := range h.storage {
		r := s.(restorable)
		if err := r.Lose(place); err != nil {
			t.Fatal(err)
		}
		if p := strings.Join(r.Place(), " "); !slices.Contains(places, p) {
			places = append(places, p)
		}
	}
	for _, p := range places {
		arguments := append([]string{"snapshot", "restore", file, "--bump-revision=" + strconv.Itoa(bump), "--mark-compacted"}, strings.Fields(p)...)
		output, err := exec.CommandContext(t.Context(), filepath.Join(h.binDir, "keelson"), arguments...).CombinedOutput()
		if err != nil {
			t.Fatalf("keelson %q: %v\n%s", arguments, err, output)
		}
		t.Logf("%s", output)
	}
	var g errgroup.Group
	for _, s := range h.storage {
		g.Go(func() error { return s.Restart(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// testRestored loses everything under a control plane that goes on running, and restores a snapshot: clients see what it has, also those that watch, nothing of what came
// after it, and revisions that are above all they have seen; controllers bring about what the restored objects say, and what is said from then on.
func testRestored(t *testing.T, h *harness) {
	const namespace = "restored"
	h.createNamespace(t, namespace)
	maps := h.kube.CoreV1().ConfigMaps(namespace)
	create := func(name string) {
		t.Helper()
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	kubectl := func(input string, arguments ...string) {
		t.Helper()
		h.kubectl(t, input, append([]string{"--namespace=" + namespace}, arguments...)...)
	}
	seen := informer(t, h, namespace)
	has := func(want ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			list, err := maps.List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			var listed, watched []string
			for _, o := range list.Items {
				listed = append(listed, o.Name)
			}
			cached, err := seen.List(labels.Everything())
			if err != nil {
				return err
			}
			for _, o := range cached {
				watched = append(watched, o.Name)
			}
			slices.Sort(watched)
			want = append(slices.DeleteFunc(want, func(name string) bool { return name == "kube-root-ca.crt" }), "kube-root-ca.crt") // which a controller makes
			slices.Sort(want)
			if !slices.Equal(listed, want) || !slices.Equal(watched, want) {
				return fmt.Errorf("listed %q, watched %q, want %q", listed, watched, want)
			}
			return nil
		}
	}
	create("before")
	create("deleted-after")
	kubectl(deployment("shop:1", 4), "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:1", 4)
	file := filepath.Join(h.dir, "snapshot.db")
	h.keelson(t, "snapshot", "save", file)

	create("after")
	if err := maps.Delete(t.Context(), "deleted-after", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubectl("", "scale", "deployment/"+application, "--replicas=9")
	h.awaitPods(t, namespace, "shop:1", 9)
	h.await(t, "what came after the snapshot", has("before", "after"))
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}

	h.restore(t, file)
	h.await(t, "what the snapshot has", has("before", "deleted-after"))
	h.await(t, "pods and nodes above the revisions that were seen", func(ctx context.Context) error {
		cached := metav1.ListOptions{ResourceVersion: "0"}
		pods, err1 := h.kube.CoreV1().Pods(namespace).List(ctx, cached)
		nodes, err2 := h.kube.CoreV1().Nodes().List(ctx, cached)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		for _, text := range []string{pods.ResourceVersion, nodes.ResourceVersion} {
			if rev, err := strconv.ParseInt(text, 10, 64); err != nil || rev <= bump {
				return fmt.Errorf("kube-apiserver's cache is at revision %s: %v", text, err)
			}
		}
		return nil
	})
	// Not before: what it lists at its start is not to be what kube-apiserver had before the restore.
	if err := h.cluster.RestartKwok(); err != nil {
		t.Fatal(err)
	}
	h.awaitPods(t, namespace, "shop:1", 4)
	create("anew")
	h.await(t, "what is written after the restore", has("before", "deleted-after", "anew"))
	anew, err := maps.Get(t.Context(), "anew", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was, err1 := strconv.ParseInt(list.ResourceVersion, 10, 64)
	is, err2 := strconv.ParseInt(anew.ResourceVersion, 10, 64)
	if err := errors.Join(err1, err2); err != nil || is <= was || is <= bump {
		t.Errorf("revision %d after %d: %v", is, was, err)
	}
	kubectl(deployment("shop:2", 6), "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:2", 6)
	if err := h.cluster.Exited(); err != nil {
		t.Error(err)
	}
}
