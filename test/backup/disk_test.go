package backup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/backup"
	"github.com/keelson-io/keelson/test/conformance/launch"
)

// namespaceEnv names the test that runs with mounts of its own.
const namespaceEnv = "KEELSON_BACKUP_NAMESPACE"

// ownMounts runs the calling test anew in a process whose mounts nobody else sees, as root or where users may have namespaces, and is true in that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatalf("make the mounts private: %v", err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m", "-bin="+filepath.Dir(binary(t, "keelson")))
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("with mounts of its own, for which root or user namespaces are needed: %v\n%s", err, out)
	}
	return false
}

// TestFullDisk: a full disk of the backups costs nothing but them. What is there stays, nothing half is left, and when there is room again the next one is made.
func TestFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p := place{target: backup.AtDir(dir), flags: []string{"--backup-dir=" + dir}}
	n := start(t, launch.Options{Flags: append(p.flags, "--backup-schedule=@every 1s", "--backup-keep=1")})[0]
	until(t, "a backup is made", func() bool { return n.metric(t, made) >= 1 })
	stop := load(t, n)
	until(t, "backups fail", func() bool { return n.metric(t, failed) >= 2 })
	stop()
	if all := p.sound(t); len(all) != 1 {
		t.Errorf("there are %+v, want the last good one", all)
	}
	if n.metric(t, "keelson_backup_last_result") != 0 || n.metric(t, "keelson_backup_last_success_timestamp_seconds") == 0 {
		t.Error("the metrics do not tell that the last one failed, and when one did not")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=512m"); err != nil {
		t.Fatal(err)
	}
	before := n.metric(t, made)
	until(t, "one is made again", func() bool { return n.metric(t, made) > before })
	p.sound(t)
}

// TestNoRoom: no snapshot is begun for which there is no room, since its disk may be the store's. With room again there are backups.
func TestNoRoom(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	temp := t.TempDir()
	if err := unix.Mount("tmpfs", temp, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(temp, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p := directory(t)
	n := start(t, launch.Options{Flags: append(p.flags, "--snapshot-dir="+temp, "--backup-schedule=@every 1s")})[0]
	until(t, "one is made", func() bool { return n.metric(t, made) >= 1 })
	stop := load(t, n)
	until(t, "none is begun", func() bool { return strings.Contains(n.LogTail(), "there is no room") })
	stop()
	if n.metric(t, "keelson_backup_last_result") != 0 {
		t.Error("the metrics do not tell that it failed")
	}
	before := n.metric(t, made)
	if err := unix.Mount("tmpfs", temp, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	until(t, "one is made again", func() bool { return n.metric(t, made) > before })
	p.sound(t)
}
