package server

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReleaseProgram: fewer of the program's pages are in memory, and it goes on.
func TestReleaseProgram(t *testing.T) {
	before := programPages(t)
	releaseProgram()
	after := programPages(t)
	if after == 0 || after >= before {
		t.Errorf("%d KiB of the program are in memory, and %d were", after, before)
	}
}

// programPages gives how much of this program's file is in memory, in KiB.
func programPages(t *testing.T) (kib int) {
	t.Helper()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var area mapping
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m, ok := parseMapping(lines.Text()); ok {
			area = m
		}
		if size, ok := strings.CutPrefix(lines.Text(), "Rss:"); ok && area.path == program {
			var n int
			if _, err := fmt.Sscanf(size, "%d kB", &n); err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	return kib
}

func TestParseMapping(t *testing.T) {
	m, ok := parseMapping("00400000-0146c000 r-xp 00003000 fe:00 27279   /opt/a b/keelson")
	if want := (mapping{0x400000, 0x146c000, "r-xp", "/opt/a b/keelson"}); !ok || m != want {
		t.Errorf("%+v, %v", m, ok)
	}
	for _, line := range []string{"Rss:                 252 kB", "VmFlags: rd ex mr mw me", "7ffd-7ffe rw-p 00000000 00:00 0", ""} {
		if m, ok := parseMapping(line); ok {
			t.Errorf("%q is %+v", line, m)
		}
	}
}
