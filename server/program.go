package server

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// releaseProgram gives back to the system what starting has read of the program's file and serving hardly needs: the code that sets packages up, and the tables for it. The system maps a page's
// neighbours along with it, so by then nearly the whole file is in the process's memory, some 28 MiB. What is needed is mapped again, from the system's cache of files, at the
// first use. Only mappings of the program that cannot be written and never were are touched: their pages are those of the file.
//
// What cannot be read or released stays.
func releaseProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var area mapping
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if m, ok := parseMapping(line); ok {
			area = m
			continue
		}
		// It comes after the area's first line, and says how much of it is no longer as in the file.
		if anonymous, ok := strings.CutPrefix(line, "Anonymous:"); ok && area.path == program && area.perms[1] == '-' && strings.TrimSpace(anonymous) == "0 kB" {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, area.from, area.to-area.from, syscall.MADV_DONTNEED)
		}
	}
}

// mapping is an area of memory, as /proc/self/smaps has it.
type mapping struct {
	from, to    uintptr
	perms, path string
}

func parseMapping(line string) (m mapping, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || len(fields[1]) != 4 {
		return m, false
	}
	if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to); err != nil {
		return m, false
	}
	m.perms, m.path = fields[1], strings.Join(fields[5:], " ")
	return m, true
}
