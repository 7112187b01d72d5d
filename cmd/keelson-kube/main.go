// Keelson-kube decodes objects of Kubernetes for `keelson history`: it is a program of its own, since the types of Kubernetes, and what they need,
// are of no use to a server.
//
// It reads values, as they are in the store, and answers each with YAML, until its input ends. Both ways a value is its length in four bytes, the first of them the
// highest, and itself; an answer has a byte before that: 0 if it is YAML, 1 if it says why there is none.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := serve(bufio.NewReader(os.Stdin), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "keelson-kube:", err)
		os.Exit(1)
	}
}

// maxValue bounds what is read at once.
const maxValue = 64 << 20

func serve(in io.Reader, out io.Writer) error {
	d := newDecoder()
	for {
		value, err := read(in)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		text, err := d.yaml(value)
		how := byte(0)
		if err != nil {
			how, text = 1, []byte(err.Error())
		}
		answer := binary.BigEndian.AppendUint32([]byte{how}, uint32(len(text)))
		if _, err := out.Write(append(answer, text...)); err != nil {
			return err
		}
	}
}

// read gives the next value, io.EOF if there is none.
func read(in io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxValue {
		return nil, fmt.Errorf("a value of %d bytes", n)
	}
	value := make([]byte, n)
	if _, err := io.ReadFull(in, value); err != nil {
		return nil, fmt.Errorf("a value that ends too early: %w", err)
	}
	return value, nil
}

// decoder knows the types that client-go has. Others, those of custom resources among them, are stored as JSON.
type decoder struct {
	scheme *runtime.Scheme
	decode runtime.Decoder
}

func newDecoder() *decoder {
	return &decoder{scheme.Scheme, scheme.Codecs.UniversalDeserializer()}
}

// yaml decodes an object and gives its YAML.
func (d *decoder) yaml(value []byte) ([]byte, error) {
	object, kind, err := d.decode.Decode(value, nil, nil)
	if err != nil {
		return nil, err
	}
	object.GetObjectKind().SetGroupVersionKind(*kind)
	return yaml.Marshal(object)
}
