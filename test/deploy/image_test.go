//go:build image

package deploy

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/launch"
)

// TestImageRoot assembles what the image consists of and runs it under that root, with nothing else there.
func TestImageRoot(t *testing.T) {
	assemble := exec.Command("sh", "-c", "umask 077 && exec ../../deploy/tools/image --root "+runtime.GOARCH)
	assemble.Stderr = os.Stderr
	if err := assemble.Run(); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join("../../.build/image", runtime.GOARCH)
	for _, name := range []string{"keelson", "etcd", "etcdctl", "etcdutl"} {
		static(t, filepath.Join(built, "usr/local/bin", name))
	}
	readable(t, built)
	root := t.TempDir()
	if out, err := exec.Command("cp", "-a", built+"/.", root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// As the kubelet writes it.
	if err := os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("127.0.0.1 localhost keelson.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := run(t, root, "etcd", "--version"); !strings.Contains(out, "etcd Version: ") || !strings.Contains(out, "Keelson Version: v") {
		t.Errorf("etcd --version says %s", out)
	}
	inRoot := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(inRoot, []byte("#!/bin/sh\nexec chroot "+root+" /usr/local/bin/etcd \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := launch.Start(t.Context(), launch.Options{Binary: inRoot, Dir: t.TempDir(), Flags: []string{"--data-dir=/var/lib/etcd"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	_, port, _ := strings.Cut(server.Endpoint(), ":")
	endpoint := "--endpoints=http://keelson.test:" + port
	if out := run(t, root, "etcdctl", endpoint, "put", "greeting", "hello"); out != "OK\n" {
		t.Errorf("put says %s", out)
	}
	if out := run(t, root, "etcdctl", endpoint, "get", "greeting"); out != "greeting\nhello\n" {
		t.Errorf("get says %s", out)
	}
	if out := run(t, root, "etcdctl", endpoint, "snapshot", "save", "/tmp/snapshot.db"); !strings.Contains(out, "Snapshot saved") {
		t.Errorf("snapshot save says %s", out)
	}
	if out := run(t, root, "etcdutl", "snapshot", "status", "/tmp/snapshot.db"); !strings.Contains(out, ", ") {
		t.Errorf("snapshot status says %s", out)
	}
	// Whoever it runs as can be where it begins.
	anybody := under(root, "keelson", "version")
	anybody.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	if out, err := anybody.CombinedOutput(); err != nil {
		t.Errorf("as nobody: %v: %s", err, out)
	}
	// Names of hosts and of users: a Postgres client wants both. Nobody listens on the discard port.
	out, err := under(root, "keelson", "check", "--datastore", "postgres://keelson.test:9/kubernetes?sslmode=disable").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "127.0.0.1:9") {
		t.Errorf("%v: %s", err, out)
	}
}

// readable wants a root that anybody can use, whoever has made it.
func readable(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		want := fs.FileMode(0o004)
		if info.IsDir() || filepath.Base(filepath.Dir(path)) == "bin" {
			want = 0o005
		}
		if info.Mode()&want != want {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// static wants a program that loads no library.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has %s", path, p.Type)
		}
	}
}

// under is a command in a root, without an environment, as in a container.
func under(root, name string, args ...string) *exec.Cmd {
	return &exec.Cmd{
		Path: "/usr/local/bin/" + name, Args: append([]string{name}, args...), Dir: "/var/lib/etcd",
		Env:         []string{"PATH=/usr/local/bin"},
		SysProcAttr: &syscall.SysProcAttr{Chroot: root},
	}
}

func run(t *testing.T, root, name string, args ...string) string {
	t.Helper()
	out, err := under(root, name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}
