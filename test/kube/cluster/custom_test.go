package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

var anchors = schema.GroupVersionResource{Group: "test.keelson.io", Version: "v1", Resource: "anchors"}

// testCustomResources takes a resource definition and its objects from creation to deletion.
func testCustomResources(t *testing.T, h *harness) {
	const namespace, count = "custom", 60
	h.createNamespace(t, namespace)
	definitions := h.extensions.ApiextensionsV1().CustomResourceDefinitions()
	if _, err := definitions.Create(t.Context(), anchorDefinition(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	objects := h.dynamic.Resource(anchors).Namespace(namespace)
	h.await(t, "the resource", func(ctx context.Context) error {
		_, err := objects.List(ctx, metav1.ListOptions{})
		return err
	})
	for i := range count {
		if _, err := objects.Create(t.Context(), anchor(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	resourceVersion := listInPages(t, objects, count)
	changeAndWatch(t, objects, resourceVersion)
	if err := definitions.Delete(t.Context(), anchorDefinition().Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.await(t, "the end of the definition", func(ctx context.Context) error {
		_, err := definitions.Get(ctx, anchorDefinition().Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
	h.await(t, "the end of the resource", func(ctx context.Context) error {
		_, err := objects.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still served"), err)
	})
}

// listInPages lists the objects in small pages, each once, and gives the list's resource version.
func listInPages(t *testing.T, objects dynamic.ResourceInterface, count int) string {
	t.Helper()
	seen := map[string]bool{}
	options := metav1.ListOptions{Limit: 7}
	for {
		page, err := objects.List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range page.Items {
			if seen[object.GetName()] {
				t.Errorf("%s is on two pages", object.GetName())
			}
			seen[object.GetName()] = true
		}
		options.Continue = page.GetContinue()
		if options.Continue == "" {
			if len(seen) != count {
				t.Errorf("%d objects listed, want %d", len(seen), count)
			}
			return page.GetResourceVersion()
		}
	}
}

// changeAndWatch changes one object and deletes another, and sees both in a watch from before.
func changeAndWatch(t *testing.T, objects dynamic.ResourceInterface, resourceVersion string) {
	t.Helper()
	patch := []byte(`{"spec":{"weight":1000}}`)
	if _, err := objects.Patch(t.Context(), "anchor-1", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := objects.Delete(t.Context(), "anchor-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watcher, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: resourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	for _, want := range []struct {
		event watch.EventType
		name  string
	}{{watch.Modified, "anchor-1"}, {watch.Deleted, "anchor-2"}} {
		event, open := <-watcher.ResultChan()
		if !open {
			t.Fatalf("the watch ended (%v) before %s of %s", ctx.Err(), want.event, want.name)
		}
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type != want.event || object.GetName() != want.name {
			t.Fatalf("the watch gave %s %v, want %s of %s", event.Type, event.Object, want.event, want.name)
		}
	}
}

func anchor(i int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": anchors.GroupVersion().String(),
		"kind":       "Anchor",
		"metadata":   map[string]any{"name": fmt.Sprintf("anchor-%d", i)},
		"spec":       map[string]any{"weight": int64(i)},
	}}
}

func anchorDefinition() *apiextensionsv1.CustomResourceDefinition {
	spec := apiextensionsv1.JSONSchemaProps{
		Type:       "object",
		Properties: map[string]apiextensionsv1.JSONSchemaProps{"weight": {Type: "integer"}},
	}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: anchors.Resource + "." + anchors.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: anchors.Group,
			Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: anchors.Resource, Singular: "anchor", Kind: "Anchor"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: anchors.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type:       "object",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec},
				}},
			}},
		},
	}
}
