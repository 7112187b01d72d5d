package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ResidentBytes is the resident memory (VmRSS) of the process with this id.
func ResidentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("resident memory of %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		value, found := strings.CutPrefix(line, "VmRSS:")
		if !found {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("resident memory of %d: %w", pid, err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("resident memory of %d: no VmRSS", pid)
}
