package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	kills   = 3
	writers = 4
	// writesBetween is how many writes are acknowledged before each kill.
	writesBetween = 200
)

// testStorageKilled kills a storage server under load, three times, the next one each time if there are several, and the leader first if they have one. Each time it comes
// back on the same data and address, and everything must go on: what was acknowledged is there as it was, revisions rise,
// an informer that was open all the time sees everything, and a deployment reaches its new size.
func testStorageKilled(t *testing.T, h *harness) {
	const namespace = "killed"
	h.createNamespace(t, namespace)
	h.kubectl(t, deployment("shop:1", 5), "--namespace="+namespace, "apply", "-f", "-")
	h.awaitPods(t, namespace, "shop:1", 5)
	seen := informer(t, h, namespace)

	w := newLoad(h, namespace)
	begin := 1
	if h.leader != nil {
		begin = h.leader(t)
	}
	for kill := range kills {
		replicas := 10 + 5*kill
		victim := h.storage[(begin+kill)%len(h.storage)]
		killUnderLoad(t, h, w, victim, replicas)
		if err := h.cluster.RestartKwok(); err != nil {
			t.Fatal(err)
		}
		h.awaitPods(t, namespace, "shop:1", replicas)
		if len(h.storage) > 1 {
			if err := victim.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d writes were acknowledged", w.count())
	h.await(t, "everything in the informer", func(context.Context) error {
		return compare(w.written(), seen.Get)
	})
	if err := first(w.wrong); err != nil {
		t.Error(err)
	}
	if err := h.cluster.Exited(); err != nil {
		t.Error(err)
	}
}

// killUnderLoad writes, sets a new size, kills a storage server, restarts it if it is the only one, and returns when writing goes on.
func killUnderLoad(t *testing.T, h *harness, w *load, victim server, replicas int) {
	t.Helper()
	defer w.start(t)()
	w.awaitMore(t, writesBetween)
	h.kubectl(t, "", "--namespace="+w.namespace, "scale", "deployment/"+application, fmt.Sprintf("--replicas=%d", replicas))
	victim.Kill()
	if len(h.storage) == 1 {
		if err := victim.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.await(t, "what was written before the kill", w.check)
	w.awaitMore(t, 1)
	h.await(t, "the pods", func(ctx context.Context) error {
		_, err := h.kube.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{})
		return err
	})
}

// informer watches the config maps of a namespace from now on.
func informer(t *testing.T, h *harness, namespace string) listers.ConfigMapNamespaceLister {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(h.kube, 0, informers.WithNamespace(namespace))
	configMaps := factory.Core().V1().ConfigMaps()
	shared := configMaps.Informer()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(t.Context().Done(), shared.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	return configMaps.Lister().ConfigMaps(namespace)
}

// load creates config maps and remembers those that were acknowledged.
type load struct {
	client    kubernetes.Interface
	namespace string
	next      atomic.Int64  // the number in the last name
	more      chan struct{} // holds a token when something was acknowledged since it was last empty

	mu           sync.Mutex
	acknowledged map[string]int64 // name to resource version
	names        map[int64]string // and back: a revision is used once
	wrong        []error          // answers that cannot be true
	failed       []error          // requests without success
}

func newLoad(h *harness, namespace string) *load {
	return &load{client: h.kube, namespace: namespace, acknowledged: map[string]int64{}, names: map[int64]string{}, more: make(chan struct{}, 1)}
}

// start starts the writers, and gives what ends them.
func (w *load) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range writers {
		running.Go(func() { w.write(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// write creates one after another until ctx ends. One that fails while the storage is away may be there later or not.
func (w *load) write(ctx context.Context) {
	last := int64(0)
	for ctx.Err() == nil {
		name := fmt.Sprintf("written-%06d", w.next.Add(1))
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": name}}
		tryCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		created, err := w.client.CoreV1().ConfigMaps(w.namespace).Create(tryCtx, object, metav1.CreateOptions{})
		cancel()
		switch {
		case err == nil:
			last = w.note(created, last)
		case ctx.Err() == nil:
			w.mu.Lock()
			w.failed = append(w.failed, fmt.Errorf("%s: %w", name, err))
			w.mu.Unlock()
		}
	}
}

// note remembers an acknowledged write of a writer whose write before had the revision last.
func (w *load) note(created *corev1.ConfigMap, last int64) int64 {
	revision, err := strconv.ParseInt(created.ResourceVersion, 10, 64)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || revision <= last {
		w.wrong = append(w.wrong, fmt.Errorf("%s has resource version %q, the write before it %d", created.Name, created.ResourceVersion, last))
	}
	if other, used := w.names[revision]; used {
		w.wrong = append(w.wrong, fmt.Errorf("%s and %s both have resource version %d", created.Name, other, revision))
	}
	w.names[revision] = created.Name
	w.acknowledged[created.Name] = revision
	select {
	case w.more <- struct{}{}:
	default:
	}
	return revision
}

func (w *load) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged)
}

// awaitMore returns when n more writes were acknowledged.
func (w *load) awaitMore(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(patience)
	for target := w.count() + n; w.count() < target; {
		select {
		case <-w.more:
		case <-timeout:
			t.Fatalf("%d writes were acknowledged, want %d", w.count(), target)
		}
	}
}

// written is what has been acknowledged so far, by name.
func (w *load) written() map[string]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.acknowledged)
}

// check lists what is stored, which must hold what was acknowledged before.
func (w *load) check(ctx context.Context) error {
	written := w.written()
	list, err := w.client.CoreV1().ConfigMaps(w.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	stored := map[string]*corev1.ConfigMap{}
	for i := range list.Items {
		stored[list.Items[i].Name] = &list.Items[i]
	}
	return compare(written, func(name string) (*corev1.ConfigMap, error) {
		if stored[name] == nil {
			return nil, fmt.Errorf("%s was acknowledged and is gone", name)
		}
		return stored[name], nil
	})
}

// compare looks up each object that was written; each must be as it was.
func compare(written map[string]int64, get func(name string) (*corev1.ConfigMap, error)) error {
	var errs []error
	for name, revision := range written {
		object, err := get(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if object.ResourceVersion != strconv.FormatInt(revision, 10) || object.Data["key"] != name {
			errs = append(errs, fmt.Errorf("%s was stored at %d, and is now %q with resource version %s", name, revision, object.Data["key"], object.ResourceVersion))
		}
	}
	return first(errs)
}

// first is several errors as one, cut to what a reader wants.
func first(errs []error) error {
	const most = 10
	if len(errs) <= most {
		return errors.Join(errs...)
	}
	return fmt.Errorf("%d errors, the first of them:\n%w", len(errs), errors.Join(errs[:most]...))
}
