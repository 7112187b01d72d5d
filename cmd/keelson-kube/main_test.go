package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// TestServe gives the program an object as kube-apiserver stores it, something else, and an object again.
func TestServe(t *testing.T) {
	d := newDecoder()
	s := protobuf.NewSerializer(d.scheme, d.scheme)
	object := &core.ConfigMap{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: meta.ObjectMeta{Name: "n", Namespace: "ns"}, Data: map[string]string{"a": "b"},
	}
	var value bytes.Buffer
	if err := s.Encode(object, &value); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(value.Bytes(), []byte("k8s\x00")) {
		t.Fatalf("%q", value.Bytes())
	}
	var in, out bytes.Buffer
	for _, v := range [][]byte{value.Bytes(), []byte("k8s\x00nothing"), value.Bytes()} {
		in.Write(binary.BigEndian.AppendUint32(nil, uint32(len(v))))
		in.Write(v)
	}
	if err := serve(&in, &out); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		how, _ := out.ReadByte()
		text, err := read(&out)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if how != 1 || len(text) == 0 {
				t.Errorf("answered %d %q", how, text)
			}
			continue
		}
		for _, want := range []string{"apiVersion: v1\n", "kind: ConfigMap\n", "  name: \"n\"\n", "  namespace: ns\n", "data:\n  a: b\n"} {
			if how != 0 || !strings.Contains(string(text), want) {
				t.Errorf("answered %d %q, want %q in it", how, text, want)
			}
		}
	}
}
