package store

import (
	"testing"

	"k8s.io/apiserver/pkg/features"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/component-base/featuregate"
)

// storeTest is one of upstream's functions with what it needs.
type storeTest struct {
	name  string
	setup setup
	run   func(t *testing.T, f *fixture)
}

func runAll(t *testing.T, tests []storeTest) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newFixture(t, test.setup)) })
	}
}

var (
	unsafeDeletion   = map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: true}
	noUnsafeDeletion = map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: false}
	paged            = map[featuregate.Feature]bool{features.EtcdRangeStream: false}
	streamed         = map[featuregate.Feature]bool{features.EtcdRangeStream: true}
	// The store reads the compaction's key only to serve lists of the past from the cache.
	compactionWatched   = map[featuregate.Feature]bool{features.ListFromCacheSnapshot: true}
	compactionUnwatched = map[featuregate.Feature]bool{features.ListFromCacheSnapshot: false}
)

func TestWrites(t *testing.T) {
	runAll(t, []storeTest{
		{name: "Create", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestCreate(t.Context(), t, f, f.checkStored)
		}},
		{name: "CreateWithTTL", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestCreateWithTTL(t.Context(), t, f)
		}},
		{name: "CreateWithKeyExist", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestCreateWithKeyExist(t.Context(), t, f)
		}},
		{name: "GuaranteedUpdate", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(t.Context(), t, f, f.checkStored)
		}},
		{name: "GuaranteedUpdateWithTTL", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithTTL(t.Context(), t, f)
		}},
		{name: "GuaranteedUpdateChecksStoredData", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(t.Context(), t, f)
		}},
		{name: "GuaranteedUpdateWithConflict", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithConflict(t.Context(), t, f)
		}},
		{name: "GuaranteedUpdateWithSuggestionAndConflict", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(t.Context(), t, f)
		}},
		{name: "TransformationFailure", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestTransformationFailure(t.Context(), t, f)
		}},
		{name: "KeySchema", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestKeySchema(t.Context(), t, f)
		}},
	})
}

func TestDeletions(t *testing.T) {
	runAll(t, []storeTest{
		{name: "UnconditionalDelete", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestUnconditionalDelete(t.Context(), t, f)
		}},
		{name: "ConditionalDelete", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestConditionalDelete(t.Context(), t, f)
		}},
		{name: "DeleteWithSuggestion", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestion(t.Context(), t, f)
		}},
		{name: "DeleteWithSuggestionAndConflict", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndConflict(t.Context(), t, f)
		}},
		{name: "DeleteWithSuggestionOfDeletedObject", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(t.Context(), t, f)
		}},
		{name: "ValidateDeletionWithSuggestion", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithSuggestion(t.Context(), t, f)
		}},
		{name: "ValidateDeletionWithOnlySuggestionValid", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(t.Context(), t, f)
		}},
		{name: "DeleteWithConflict", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflict(t.Context(), t, f)
		}},
		{name: "PreconditionalDeleteWithSuggestion", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithSuggestion(t.Context(), t, f)
		}},
		{name: "PreconditionalDeleteWithOnlySuggestionPass", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(t.Context(), t, f)
		}},
		{name: "DeleteWithConflictAndMissingExpectedTransformOrDecodeError", setup: setup{gates: unsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(t.Context(), t, f, f.codec.setFailing)
		}},
		{name: "DeleteExpectedTransformError", setup: setup{gates: unsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(t.Context(), t, f, f.transformer.setFailing)
		}},
		{name: "DeleteExpectedDecodeError", setup: setup{gates: unsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(t.Context(), t, f, f.codec.setFailing)
		}},
		{name: "DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", setup: setup{gates: unsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(t.Context(), t, f)
		}},
	})
}

func TestReads(t *testing.T) {
	runAll(t, []storeTest{
		{name: "Get", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGet(t.Context(), t, f)
		}},
		{name: "List/paged", setup: setup{gates: paged}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestList(t.Context(), t, f, f.compact, false, f.lists)
			if n := f.reads.GetStreamReadsAndReset(); n != 0 {
				t.Errorf("%d RangeStream requests with the feature off", n)
			}
		}},
		{name: "List/streamed", setup: setup{gates: streamed}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestList(t.Context(), t, f, f.compact, false, f.lists)
			if f.reads.GetStreamReadsAndReset() == 0 {
				t.Error("no RangeStream request with the feature on")
			}
		}},
		{name: "ConsistentList/paged", setup: setup{gates: paged}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(t.Context(), t, f, f.increaseRevision, false, true, false)
		}},
		{name: "ConsistentList/streamed", setup: setup{gates: streamed}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(t.Context(), t, f, f.increaseRevision, false, true, false)
		}},
		{name: "GetListNonRecursive", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGetListNonRecursive(t.Context(), t, f.increaseRevision, f)
		}},
		{name: "GetListRecursivePrefix", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGetListRecursivePrefix(t.Context(), t, f)
		}},
		{name: "GetListWithErrorAggregation", setup: setup{gates: unsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGetListWithErrorAggregation(t.Context(), t, f.withUnsafeDeletion(), corruption(t))
		}},
		{name: "GetListWithoutErrorAggregation", setup: setup{gates: noUnsafeDeletion}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestGetListWithoutErrorAggregation(t.Context(), t, f, corruption(t))
		}},
		{name: "ListPaging", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestListPaging(t.Context(), t, f)
		}},
		{name: "ListContinuation", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuation(t.Context(), t, f, f.checkCalls)
		}},
		{name: "ListContinuationWithFilter", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuationWithFilter(t.Context(), t, f, f.checkCalls)
		}},
		{name: "ListPaginationRareObject", setup: setup{gates: compactionUnwatched}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestListPaginationRareObject(t.Context(), t, f, f.checkCalls)
		}},
		{name: "ListInconsistentContinuation", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(t.Context(), t, f, f.compact)
		}},
		{name: "ListResourceVersionMatch", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(t.Context(), t, f)
		}},
		{name: "NamespaceScopedList", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestNamespaceScopedList(t.Context(), t, f)
		}},
		{name: "CompactRevision", setup: setup{gates: compactionWatched}, run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestCompactRevision(t.Context(), t, f, f.increaseRevision, f.compact)
		}},
		{name: "Stats/sizes", run: func(t *testing.T, f *fixture) {
			if err := f.EnableResourceSizeEstimation(f.keys); err != nil {
				t.Fatal(err)
			}
			storagetesting.RunTestStats(t.Context(), t, f, f.codec, f.transformer, true)
		}},
		{name: "Stats/counts", run: func(t *testing.T, f *fixture) {
			storagetesting.RunTestStats(t.Context(), t, f, f.codec, f.transformer, false)
		}},
	})
}
