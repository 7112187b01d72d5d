package server

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestUncache: what was just written is in memory, and after Uncache it is not.
func TestUncache(t *testing.T) {
	dir, err := os.MkdirTemp(".", "uncache-") // beside the sources: elsewhere there may be no disk below the file system
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, bytes.Repeat([]byte("keelson"), 1<<17), 0o700); err != nil {
		t.Fatal(err)
	}
	if n := cachedPages(t, program); n == 0 {
		t.Fatal("nothing of a file that was just written is in memory")
	}
	if err := (Spec{Name: "program", Binary: program}).Uncache(); err != nil {
		t.Fatal(err)
	}
	if n := cachedPages(t, program); n > 0 {
		t.Errorf("%d pages are still in memory", n)
	}
	if err := (Spec{Name: "program", Binary: program + "-not"}).Uncache(); err == nil {
		t.Error("a program that is not there is forgotten")
	}
}

// cachedPages gives how many of a file's pages the system has in memory.
func cachedPages(t *testing.T, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	size, page := int(info.Size()), os.Getpagesize()
	mapped, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	pages := make([]byte, (size+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(size), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}
