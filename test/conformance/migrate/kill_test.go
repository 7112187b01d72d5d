package migrate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
)

// bigFile makes a file of so many keys, which have the leases in turn.
func bigFile(t *testing.T, keys int64, leases ...etcdfile.Lease) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	w, err := etcdfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	value := []byte(strings.Repeat("x", 400))
	for i := range keys {
		var lease int64
		if n := int64(len(leases)); n > 0 {
			lease = leases[i%n].ID
		}
		kv, err := proto.Marshal(&mvccpb.KeyValue{Key: fmt.Appendf(nil, "/registry/k%09d", i), Value: value, CreateRevision: i + 2, ModRevision: i + 2, Version: 1, Lease: lease})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: i + 2}, KeyValue: kv}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(&etcdfile.Meta{Compact: -1, Leases: leases}); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKilled kills a migration at many moments: a target is not there or is whole, and nothing stands in the way of the next attempt.
func TestKilled(t *testing.T) {
	source := bigFile(t, 10_000)
	// A Keelson's directory may be there before it has anything.
	content := map[string]string{"keelson": "member"}
	for name, target := range map[string]string{"keelson": "dir:", "snapshot": "snapshot:", "kine": "kine+sqlite:"} {
		t.Run(name, func(t *testing.T) {
			dir, temp := t.TempDir(), t.TempDir()
			begin := time.Now()
			migrate(t, source, target+filepath.Join(dir, "first"), "--tmp-dir", temp)
			took := time.Since(begin)
			path := filepath.Join(dir, "target")
			whole := 0
			for i := range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(took))))
				// CommandContext kills with SIGKILL.
				out, err := exec.CommandContext(ctx, tool(t, "keelson"), "migrate", "--from", source, "--to", target+path, "--tmp-dir", temp).CombinedOutput()
				killed := ctx.Err() != nil
				cancel()
				if err != nil && !killed {
					t.Fatalf("attempt %d: %v\n%s", i, err, out)
				}
				if _, err := os.Stat(filepath.Join(path, content[name])); err != nil {
					continue
				}
				whole++
				back := filepath.Join(dir, fmt.Sprint("back", i))
				if out := migrate(t, path, "snapshot:"+back); !strings.Contains(out, "revision 10001, never compacted, 10000 keys") {
					t.Fatalf("attempt %d has left something else:\n%s", i, out)
				}
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d of 10 were whole", whole)
			migrate(t, source, target+path, "--tmp-dir", temp)
		})
	}
}

// TestKilledOnServer: a running server has what it was given before the kill, and the rest after the next attempt.
func TestKilledOnServer(t *testing.T) {
	source := bigFile(t, 10_000)
	for _, name := range []string{"etcd", "keelson"} {
		t.Run(name, func(t *testing.T) {
			target := start(t, name, t.TempDir())
			args := []string{"migrate", "--from", source, "--to", target.url, "--yes", "--merge", "--tmp-dir", t.TempDir()}
			for i := range 3 {
				cmd := exec.Command(tool(t, "keelson"), args...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				// It is killed when it has written something.
				for before := target.revision(); target.revision() < before+int64(10*i+1); {
					select {
					case err := <-ended:
						t.Fatalf("it has ended before it was killed: %v", err)
					default:
					}
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				<-ended
			}
			refused(t, "--merge", source, target.url, "--yes")
			if out := migrate(t, source, target.url, "--yes", "--merge"); !strings.Contains(out, "target  10000 rows, 10000 keys") {
				t.Error(out)
			}
		})
	}
}
