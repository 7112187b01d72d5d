package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ErrNoFigure says that a file of /proc lacks the line that was asked for.
var ErrNoFigure = errors.New("server: no such figure in /proc")

// IO is what a process has had written to storage, as /proc/PID/io counts it: whole pages when they become dirty.
type IO struct {
	WriteBytes int64
}

// ReadIO reads a process's I/O account. It works on a process that has ended until it is reaped.
func ReadIO(pid int) (IO, error) {
	n, err := figure(fmt.Sprintf("/proc/%d/io", pid), "write_bytes")
	return IO{WriteBytes: n}, err
}

// ReadRSS reads a process's resident memory in bytes, files it has mapped included.
func ReadRSS(pid int) (int64, error) {
	kib, err := figure(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
	return kib << 10, err
}

func figure(path, name string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read a process's account: %w", err)
	}
	return parseFigure(data, name)
}

// parseFigure finds "name: number" (with any unit after it) among the lines of data.
func parseFigure(data []byte, name string) (int64, error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		label, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || label != name || len(fields) == 0 {
			continue
		}
		return strconv.ParseInt(fields[0], 10, 64)
	}
	return 0, fmt.Errorf("%w: %s", ErrNoFigure, name)
}
