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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// namespaceEnv names the test that runs with mounts of its own.
const namespaceEnv = "KEELSON_CRASH_NAMESPACE"

// ownMounts runs the calling test anew in a process whose mounts nobody else
// sees, as root or where users may have namespaces, and is true in that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatalf("make the mounts private: %v", err)
		}
		return true
	}
	bin, err := filepath.Abs(*binDir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m", "-bin="+bin, "-server="+*serverName)
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("with mounts of its own, for which root or user namespaces are needed: %v\n%s", err, out)
	}
	return false
}

// mountDisk makes a small disk.
func mountDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// filler puts values from several clients and keeps what it was answered.
type filler struct {
	client *clientv3.Client
	acked  []map[string]int64 // per writer: the revision of each key's put
	tried  int
}

// fillUp puts until not even a small value is taken from any writer: where a
// large one does not fit any more, smaller ones may for a while.
func (f *filler) fillUp(ctx context.Context, most int) error {
	var g errgroup.Group
	f.tried++
	for w := range f.acked {
		g.Go(func() error {
			size := 4096
			for i := range most {
				key := fmt.Sprintf("%d/%d/%d/%d", f.tried, w, i, size)
				resp, err := f.client.Put(ctx, key, valueOf(key))
				switch {
				case err == nil:
					f.acked[w][key] = resp.Header.Revision
				case size == 1:
					return nil
				default:
					size /= 2
				}
			}
			return fmt.Errorf("%d puts went on to a full disk", most)
		})
	}
	return g.Wait()
}

// valueOf gives the value of a key, of the size that the key ends with.
func valueOf(key string) string {
	size, err := strconv.Atoi(key[strings.LastIndexByte(key, '/')+1:])
	if err != nil {
		panic(err)
	}
	return key + strings.Repeat(".", size)
}

// check reads everything: what was acknowledged is there, and what is there is whole.
func (f *filler) check(ctx context.Context, opts ...clientv3.OpOption) error {
	resp, err := f.client.Get(ctx, "\x00", append(opts, clientv3.WithFromKey())...)
	if err != nil {
		return err
	}
	found := map[string]int64{}
	for _, p := range resp.Kvs {
		if string(p.Value) != valueOf(string(p.Key)) {
			return fmt.Errorf("the value of %s is not what was put", p.Key)
		}
		found[string(p.Key)] = p.ModRevision
	}
	for _, acked := range f.acked {
		for key, rev := range acked {
			if found[key] != rev {
				return fmt.Errorf("%s was put at revision %d and is there with %d", key, rev, found[key])
			}
		}
	}
	return nil
}

// awaitHealth asks a health check until the answer is want.
func awaitHealth(ctx context.Context, srv *server, path string, want int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	last := "none"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+srv.client+path, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("want %d of %s, the last answer was %s: %w", want, path, last, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode == want {
			return err
		}
		last = fmt.Sprintf("%d %s", resp.StatusCode, body)
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("want %d of %s, the last answer was %s", want, path, last)
		}
	}
}

// awaitPut puts until the server takes it.
func awaitPut(ctx context.Context, client *clientv3.Client, key string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		resp, err := client.Put(ctx, key, valueOf(key))
		if err == nil {
			return resp.Header.Revision, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return 0, errors.Join(errors.New("the server takes no writes again"), err)
		}
	}
}

// TestFullDisk fills the disk under writes, twice, and gives room again.
func TestFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	disk := mountDisk(t)
	srv := newServer(t, disk)
	if err := srv.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := newClient(srv.client)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	f := &filler{client: client}
	for range 8 {
		f.acked = append(f.acked, map[string]int64{})
	}
	ballast := filepath.Join(disk, "ballast")
	for round := range 2 {
		if err := awaitHealth(t.Context(), srv, "/health", http.StatusOK); err != nil {
			t.Fatal(err)
		}
		fill(t, ballast)
		if err := f.fillUp(t.Context(), 4000); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{
			"/health": http.StatusServiceUnavailable, "/readyz": http.StatusServiceUnavailable, "/livez": http.StatusOK,
		} {
			if err := awaitHealth(t.Context(), srv, path, want); err != nil {
				t.Fatalf("with a full disk: %v", err)
			}
		}
		if err := errors.Join(f.check(t.Context()), f.check(t.Context(), clientv3.WithSerializable())); err != nil {
			t.Fatalf("with a full disk: %v", err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("after/%d/4096", round)
		rev, err := awaitPut(t.Context(), client, key)
		if err != nil {
			t.Fatalf("with room again: %v", err)
		}
		f.acked[0][key] = rev
	}
	if err := awaitHealth(t.Context(), srv, "/health", http.StatusOK); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	fill(t, ballast)
	if err := f.fillUp(t.Context(), 4000); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(srv.kill(), os.Remove(ballast)); err != nil {
		t.Fatal(err)
	}
	if err := checkStore(t.Context(), srv); err != nil {
		t.Fatal(err)
	}
	if err := srv.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context()); err != nil {
		t.Fatalf("killed with a full disk: %v", err)
	}
}

// TestReadOnlyDirectory starts the server on a disk that it cannot write.
func TestReadOnlyDirectory(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	disk := mountDisk(t)
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	srv := newServer(t, disk)
	refuse := func(state string) {
		t.Helper()
		remount(unix.MS_RDONLY)
		if said := refused(t, srv); !strings.Contains(said, "read-only file system") || !strings.Contains(said, srv.data) {
			t.Fatalf("with %s the server does not say that %s cannot be written; it says:\n%s", state, srv.data, said)
		}
		remount(0)
	}
	refuse("no data directory")
	if err := srv.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := newClient(srv.client)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	rev, err := awaitPut(t.Context(), client, "a/1")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.kill(); err != nil {
		t.Fatal(err)
	}
	refuse("a store that was not closed")
	if err := srv.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := &filler{client: client, acked: []map[string]int64{{"a/1": rev}}}
	if err := f.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := srv.terminate(); err != nil {
		t.Fatal(err)
	}
	refuse("a store that was closed")
}
