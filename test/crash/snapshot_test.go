package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// snapshotKeys is how many keys of 100,000 bytes TestFullDiskSnapshot has.
const snapshotKeys = 60

// fillBut takes all the room that is left, but for some bytes.
func fillBut(t *testing.T, path string, room int64) {
	t.Helper()
	fill(t, path)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, max(info.Size()-room, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// saveSnapshot saves a snapshot.
func saveSnapshot(ctx context.Context, client *clientv3.Client, path string) error {
	r, err := client.Snapshot(ctx)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// files names what there is under a directory, without the ballast.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "ballast" {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFullDiskSnapshot takes snapshots where there is no room for their file, and restores one where there is none for the store: each is refused, in words that say
// why, and leaves nothing; the server goes on, and with room again both are done, also to a disk of its own that is mounted as the data directory.
func TestFullDiskSnapshot(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	disk := mountDisk(t)
	ballast := filepath.Join(disk, "ballast")
	srv := newServer(t, t.TempDir(), "--snapshot-dir="+filepath.Join(disk, "snapshots"))
	if err := srv.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := newClient(srv.client)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range snapshotKeys {
		if _, err := client.Put(t.Context(), fmt.Sprint("key", i), strings.Repeat(fmt.Sprint(i%10), 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	saved := filepath.Join(t.TempDir(), "saved")
	for _, room := range []int64{0, 1 << 20, 5 << 20} {
		fillBut(t, ballast, room)
		err := saveSnapshot(t.Context(), client, saved)
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("with %d bytes: %v", room, err)
		}
		if left := files(t, disk); len(left) > 0 {
			t.Errorf("with %d bytes: there is %q left", room, left)
		}
		if _, err := client.Put(t.Context(), "key0", fmt.Sprint(room)); err != nil {
			t.Errorf("with %d bytes for snapshots: %v", room, err)
		}
		if err := awaitHealth(t.Context(), srv, "/health", http.StatusOK); err != nil {
			t.Errorf("with %d bytes for snapshots: %v", room, err)
		}
	}
	if err := errors.Join(os.Remove(ballast), saveSnapshot(t.Context(), client, saved)); err != nil {
		t.Fatal(err)
	}
	restore := func(data string) ([]byte, error) {
		return exec.CommandContext(t.Context(), srv.binary, "snapshot", "restore", saved, "--data-dir", data).CombinedOutput()
	}
	data := filepath.Join(disk, "restored")
	for _, room := range []int64{0, 64 << 10, 1 << 20, 5 << 20, 6 << 20, 8 << 20} {
		fillBut(t, ballast, room)
		out, err := restore(data)
		if err == nil || !strings.Contains(string(out), "no room") && !strings.Contains(string(out), "no space left") {
			t.Errorf("with %d bytes: %v, %s", room, err, out)
		}
		left, err := os.ReadDir(disk)
		if err != nil || len(left) != 2 { // the ballast, and the directory for snapshots
			t.Errorf("with %d bytes: there is %v left, %v", room, left, err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{data, mountDisk(t)} {
		if out, err := restore(data); err != nil {
			t.Fatalf("with room again, to %s: %v, %s", data, err, out)
		}
		out, err := exec.CommandContext(t.Context(), srv.binary, "check", "--data-dir", data).CombinedOutput()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf(" %d keys", snapshotKeys)) {
			t.Errorf("%s: %v, %s", data, err, out)
		}
	}
}
