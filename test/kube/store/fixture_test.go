package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/apitesting"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"

	"github.com/keelson-io/keelson/test/kube/process"
	server "github.com/keelson-io/keelson/test/kube/storage"
)

const (
	// valuePrefix is what the transformer puts before each stored value.
	valuePrefix = "stored:"
	// maxPage is the page that the store does not grow beyond (etcd3's maxLimit).
	maxPage = 10000
	// compactionSeen bounds the wait for a compaction to reach the store's watch of it.
	compactionSeen = 30 * time.Second
)

// setup says how a fixture differs from the usual one.
type setup struct {
	// gates are feature gates that are set while the test runs.
	gates map[featuregate.Feature]bool
	// flags are added to the server's command line.
	flags []string
}

// fixture is a store on a storage server of its own.
type fixture struct {
	storage.Interface
	server      *server.Server
	client      *kubernetes.Client
	reads       *storagetesting.KVRecorder
	lists       *storagetesting.KubernetesRecorder
	codec       *faultyCodec
	transformer *replaceableTransformer
}

var (
	_ storagetesting.InterfaceWithPrefixTransformer   = (*fixture)(nil)
	_ storagetesting.InterfaceWithTransformerOverride = (*fixture)(nil)
)

func newFixture(t *testing.T, s setup) *fixture {
	t.Helper()
	for gate, on := range s.gates {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, on)
	}
	forgetServerFeatures(t)
	f := &fixture{
		server:      startServer(t, s.flags),
		codec:       &faultyCodec{Codec: exampleCodec()},
		transformer: newReplaceableTransformer(storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)),
	}
	f.connect(t)
	f.open(t)
	return f
}

// forgetServerFeatures makes the store ask this server what it can do: what is known is kept for the
// whole process, and another test may have talked to another server at the same address.
func forgetServerFeatures(t *testing.T) {
	before := etcdfeature.DefaultFeatureSupportChecker
	etcdfeature.DefaultFeatureSupportChecker = etcdfeature.NewDefaultFeatureSupportChecker()
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = before })
}

func startServer(t *testing.T, flags []string) *server.Server {
	t.Helper()
	s, err := server.Start(t.Context(), server.Options{Dir: t.TempDir(), Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.Tail(40))
		}
	})
	return s
}

// connect makes the client, which records what the store reads.
func (f *fixture) connect(t *testing.T) {
	t.Helper()
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{f.server.Endpoint()},
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	f.lists = storagetesting.NewKubernetesRecorder(client.Kubernetes)
	f.reads = storagetesting.NewKVRecorder(client.KV, f.lists)
	client.Kubernetes, client.KV = f.lists, f.reads
	f.client = client
}

// open makes the store as kube-apiserver does, but for the compactor, which never compacts by itself.
func (f *fixture) open(t *testing.T) {
	t.Helper()
	compactor := etcd3.NewCompactor(f.client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1 // tests wait for leases to expire
	versioner := storage.APIObjectVersioner{}
	s, err := etcd3.New(f.client, compactor, f.codec, newPod, newPodList, "", "/pods/",
		schema.GroupResource{Resource: "pods"}, f.transformer, leases,
		etcd3.NewDefaultDecoder(f.codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f.Interface = s
}

// withUnsafeDeletion wraps the store as kube-apiserver does when objects that cannot be read may be deleted.
func (f *fixture) withUnsafeDeletion() *fixture {
	wrapped := *f
	wrapped.Interface = etcd3.NewStoreWithUnsafeCorruptObjectDeletion(f.Interface, schema.GroupResource{Resource: "pods"})
	return &wrapped
}

// UpdatePrefixTransformer replaces the transformer until the function that it returns is called.
func (f *fixture) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	before := f.transformer.get()
	changed := *before.(*storagetesting.PrefixTransformer)
	f.transformer.set(modify(&changed))
	return func() { f.transformer.set(before) }
}

// UpdateTransformer replaces the transformer until the function that it returns is called.
func (f *fixture) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	before := f.transformer.get()
	f.transformer.set(modify(before))
	return func() { f.transformer.set(before) }
}

// compact compacts to a revision as kube-apiserver's compactor does, and returns when the store has seen it.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rv, err := storage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	revision := int64(rv)
	// The first try fails when somebody has compacted before, and gives the version to try with then.
	version, _, compacted, err := etcd3.Compact(ctx, f.client.Client, 0, revision)
	if err == nil && compacted != revision {
		_, _, compacted, err = etcd3.Compact(ctx, f.client.Client, version, revision)
	}
	if err != nil || compacted != revision {
		t.Fatalf("compact to %d: compacted to %d, %v", revision, compacted, err)
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		return // the store does not look
	}
	ctx, cancel := context.WithTimeout(ctx, compactionSeen)
	defer cancel()
	err = process.Await(ctx, "the compaction in the store", func(context.Context) error {
		if seen := f.CompactRevision(); seen != revision {
			return fmt.Errorf("the store's compact revision is %d, want %d", seen, revision)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// increaseRevision writes a key outside the store.
func (f *fixture) increaseRevision(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	put, err := f.client.Put(ctx, "outside", "x")
	if err != nil {
		t.Fatal(err)
	}
	return put.Header.Revision
}

// keys are the keys of the store, as the server has them.
func (f *fixture) keys(ctx context.Context) ([]string, error) {
	got, err := f.client.KV.Get(ctx, "/pods/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(got.Kvs))
	for _, kv := range got.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}

// checkStored looks at an object as the server has it.
func (f *fixture) checkStored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	got, err := f.client.KV.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 {
		t.Fatalf("%d keys at %s", len(got.Kvs), key)
	}
	object, err := runtime.Decode(f.codec, got.Kvs[0].Value[len(valuePrefix):])
	if err != nil {
		t.Fatalf("decode %s: %v", key, err)
	}
	pod := object.(*example.Pod)
	//lint:ignore SA1019 what is deprecated must not be stored
	if pod.ResourceVersion != "" || pod.SelfLink != "" {
		//lint:ignore SA1019 see above
		t.Errorf("%s was stored with resource version %q and self link %q", key, pod.ResourceVersion, pod.SelfLink)
	}
}

// checkCalls checks that a list of objects was read in as few requests as growing pages allow.
func (f *fixture) checkCalls(t *testing.T, pageSize, objects uint64) {
	t.Helper()
	if got := f.transformer.get().(*storagetesting.PrefixTransformer).GetReadsAndReset(); got != objects {
		t.Errorf("%d objects were read, want %d", got, objects)
	}
	want := uint64(1)
	if pageSize != 0 {
		page := pageSize
		for covered := uint64(1); covered < objects; want++ {
			page = min(page*2, maxPage)
			covered += page
		}
	}
	if got := f.reads.GetReadsAndReset() + f.reads.GetStreamReadsAndReset(); got != want {
		t.Fatalf("%d requests, want %d", got, want)
	}
}

func exampleCodec() runtime.Codec {
	scheme := runtime.NewScheme()
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	return apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }
