package store

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/value"
)

var errInjected = errors.New("injected")

// faultyCodec fails to decode when told to.
type faultyCodec struct {
	runtime.Codec
	failing atomic.Bool
}

func (c *faultyCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.failing.Load() {
		return nil, nil, errInjected
	}
	return c.Codec.Decode(data, defaults, into)
}

func (c *faultyCodec) setFailing(on bool) { c.failing.Store(on) }

// replaceableTransformer delegates to a transformer that may be replaced at any time, and fails to read
// what is stored when told to.
type replaceableTransformer struct {
	current atomic.Pointer[value.Transformer]
	failing atomic.Bool
}

func newReplaceableTransformer(t value.Transformer) *replaceableTransformer {
	r := &replaceableTransformer{}
	r.set(t)
	return r
}

func (r *replaceableTransformer) get() value.Transformer  { return *r.current.Load() }
func (r *replaceableTransformer) set(t value.Transformer) { r.current.Store(&t) }
func (r *replaceableTransformer) setFailing(on bool)      { r.failing.Store(on) }

func (r *replaceableTransformer) TransformFromStorage(ctx context.Context, data []byte, of value.Context) ([]byte, bool, error) {
	if r.failing.Load() {
		return nil, false, errInjected
	}
	return r.get().TransformFromStorage(ctx, data, of)
}

func (r *replaceableTransformer) TransformToStorage(ctx context.Context, data []byte, of value.Context) ([]byte, error) {
	return r.get().TransformToStorage(ctx, data, of)
}

// corruption is the error by which the store knows an object that cannot be read.
func corruption(t *testing.T) error {
	t.Helper()
	failing := &replaceableTransformer{}
	failing.setFailing(true)
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(failing).TransformFromStorage(t.Context(), nil, nil)
	if !errors.Is(err, errInjected) {
		t.Fatalf("the transformer gave %v", err)
	}
	return err
}
