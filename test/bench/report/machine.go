package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoDisk says that the directory lies in memory, where nothing that is measured here would mean anything.
var ErrNoDisk = errors.New("report: the data directory is not on a disk")

// Machine is what the figures were measured on.
type Machine struct {
	CPU        string        `json:"cpu"`
	Cores      int           `json:"cores"`
	MemoryGiB  float64       `json:"memory_gib"`
	Kernel     string        `json:"kernel"`
	Go         string        `json:"go"`
	Filesystem string        `json:"filesystem"`
	Fdatasync  time.Duration `json:"fdatasync_ns"` // of 4 KiB appended, at the median
}

// DescribeMachine reads /proc and tries the disk under dir.
func DescribeMachine(dir string) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	m.CPU = value(string(cpu), "model name")
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	var kib float64
	if _, err := fmt.Sscanf(value(string(memory), "MemTotal"), "%f kB", &kib); err != nil {
		return m, fmt.Errorf("describe the machine: memory: %w", err)
	}
	m.MemoryGiB = kib / (1 << 20)
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	if m.Filesystem, err = filesystem(dir); err != nil {
		return m, err
	}
	m.Fdatasync, err = fdatasync(dir)
	return m, err
}

// value finds the first "name : value" line.
func value(text, name string) string {
	for line := range strings.Lines(text) {
		label, rest, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(label) == name {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func filesystem(dir string) (string, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "", fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	switch s.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "", fmt.Errorf("%w: %s", ErrNoDisk, dir)
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", nil
	}
	return fmt.Sprintf("file system %#x", s.Type), nil
}

// fdatasync measures what durability costs here at least.
func fdatasync(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fdatasync"))
	if err != nil {
		return 0, fmt.Errorf("try the disk: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	took := make([]time.Duration, 101)
	page := make([]byte, 4<<10)
	for i := range took {
		begin := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, fmt.Errorf("try the disk: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("try the disk: %w", err)
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

func (m Machine) sentence(date time.Time) string {
	return fmt.Sprintf("Measured on %s: %s, %d cores, %.1f GiB, Linux %s, %s, %s (4 KiB appended and synced in %.2f ms); "+
		"the client, which runs beside the server, takes its share of the cores.",
		date.Format(time.DateOnly), m.CPU, m.Cores, m.MemoryGiB, m.Kernel, m.Go, m.Filesystem, m.Fdatasync.Seconds()*1e3)
}
