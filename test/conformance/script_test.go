package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/script"
)

// TestCorpusOnEtcd proves the corpus on real etcd, or writes it with -rewrite.
func TestCorpusOnEtcd(t *testing.T) {
	if !*rewrite {
		script.RunCorpus(t, starter("etcd"))
		later, err := script.Later()
		if err != nil {
			t.Fatal(err)
		}
		script.Run(t, starter("etcd"), later)
		return
	}
	now, err := filepath.Glob("script/testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	later, err := filepath.Glob("script/testdata/later/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(now, later...) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := script.Parse(filepath.Base(file), src)
			got, err := script.Play(t.Context(), starter("etcd")(t, s.Flags), s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, src) {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestCorpus plays the corpus on the server under test.
func TestCorpus(t *testing.T) { script.RunCorpus(t, starter(*server)) }
