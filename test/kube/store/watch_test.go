package store

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/component-base/featuregate"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
)

// frequentProgress makes the server notify idle watches often enough for a test.
var frequentProgress = []string{"--watch-progress-notify-interval=1s"}

func TestWatches(t *testing.T) {
	runAll(t, []storeTest{
		{name: "Watch", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatch(t.Context(), t, f)
		}},
		{name: "ClusterScopedWatch", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestClusterScopedWatch(t.Context(), t, f)
		}},
		{name: "NamespaceScopedWatch", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestNamespaceScopedWatch(t.Context(), t, f)
		}},
		{name: "DeleteTriggerWatch", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteTriggerWatch(t.Context(), t, f)
		}},
		{name: "WatchFromZero", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromZero(t.Context(), t, f, f.compact)
		}},
		{name: "WatchFromNonZero", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromNonZero(t.Context(), t, f)
		}},
		{name: "DelayedWatchDelivery", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDelayedWatchDelivery(t.Context(), t, f)
		}},
		{name: "WatchError", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchError(t.Context(), t, f)
		}},
		{name: "WatchErrorIsBlockingFurtherEvents", run: func(t *testing.T, f *fixture) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(t.Context(), t, f)
		}},
		{name: "WatchWithUnsafeDelete", setup: setup{gates: unsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchWithUnsafeDelete(t.Context(), t, f, corruption(t))
		}},
		{name: "WatchContextCancel", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchContextCancel(t.Context(), t, f)
		}},
		{name: "WatcherTimeout", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatcherTimeout(t.Context(), t, f)
		}},
		{name: "WatchDeleteEventObjectHaveLatestRV", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(t.Context(), t, f)
		}},
		{name: "WatchInitializationSignal", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchInitializationSignal(t.Context(), t, f)
		}},
		{name: "ProgressNotify", setup: setup{flags: frequentProgress}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunOptionalTestProgressNotify(t.Context(), t, f, f.increaseRevision)
		}},
		{name: "WatchDispatchBookmarkEvents", setup: setup{flags: frequentProgress}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(t.Context(), t, f, false)
		}},
		{name: "SendInitialEventsBackwardCompatibility", run: func(t *testing.T, f *fixture) {
			storagetesting.RunSendInitialEventsBackwardCompatibility(t.Context(), t, f)
		}},
		{name: "BeyondTheEnd", setup: setup{gates: map[featuregate.Feature]bool{features.WatchList: true}}, run: watchBeyondTheEnd},
	})
}

// TestInitialEvents holds what a watch sends of what is there already, read in pages and as a stream.
func TestInitialEvents(t *testing.T) {
	for name, gates := range map[string]map[featuregate.Feature]bool{"paged": paged, "streamed": streamed} {
		t.Run(name, func(t *testing.T) {
			concurrent := map[featuregate.Feature]bool{
				features.EtcdRangeStream:             gates[features.EtcdRangeStream],
				features.ConcurrentWatchObjectDecode: true,
			}
			runAll(t, []storeTest{
				{name: "WatchSemantics", setup: setup{gates: gates}, run: func(t *testing.T, f *fixture) {
					storagetesting.RunWatchSemantics(t.Context(), t, f)
				}},
				{name: "WatchSemanticsDecodedConcurrently", setup: setup{gates: concurrent}, run: func(t *testing.T, f *fixture) {
					storagetesting.RunWatchSemantics(t.Context(), t, f)
				}},
				{name: "WatchSemanticInitialEventsExtended", setup: setup{gates: gates}, run: func(t *testing.T, f *fixture) {
					storagetesting.RunWatchSemanticInitialEventsExtended(t.Context(), t, f)
				}},
				{name: "WatchListMatchSingle", setup: setup{gates: gates}, run: func(t *testing.T, f *fixture) {
					storagetesting.RunWatchListMatchSingle(t.Context(), t, f)
				}},
			})
		})
	}
}

// TestCachedWatches holds the one that only the watch cache, which sends bookmarks, can pass.
func TestCachedWatches(t *testing.T) {
	runAll(t, []storeTest{
		{name: "WatchBookmarksWithCorrectResourceVersion", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(t.Context(), t, f.withCache(t))
		}},
	})
}

// withCache puts the watch cache of kube-apiserver before the store.
func (f *fixture) withCache(t *testing.T) storage.Interface {
	t.Helper()
	cache, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             f.Interface,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       schema.GroupResource{Resource: "pods"},
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      "/pods/",
		KeyFunc: func(object runtime.Object) (string, error) {
			return storage.NamespaceKeyFunc("/pods/", object)
		},
		GetAttrsFunc: storage.DefaultNamespaceScopedAttr,
		NewFunc:      newPod,
		NewListFunc:  newPodList,
		Codec:        f.codec,
		Clock:        clock.RealClock{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Stop)
	cached := cacher.NewCacheDelegator(cache, f.Interface)
	t.Cleanup(cached.Stop)
	if err := cache.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return cached
}

// watchBeyondTheEnd asks for the initial events at a revision that the server does not have yet: the
// watch must end with the error that makes the client come again, not send what there is.
func watchBeyondTheEnd(t *testing.T, f *fixture) {
	predicate := storage.Everything
	predicate.AllowWatchBookmarks = true
	w, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{
		ResourceVersion:   "102",
		SendInitialEvents: ptr.To(true),
		Recursive:         true,
		Predicate:         predicate,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	select {
	case event := <-w.ResultChan():
		status, ok := event.Object.(*metav1.Status)
		if event.Type != watch.Error || !ok || !storage.IsTooLargeResourceVersion(apierrors.FromObject(status)) {
			t.Fatalf("got %s %v, want the error for a resource version that is too large", event.Type, event.Object)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
	}
}
