package server

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Uncache has the system forget what it keeps in memory of a server's executable, as it has after a boot. Of a program that was written a moment ago, by a compiler, all of it is there in large
// pieces, and a process has whatever of those it touches mapped and counted as its own: some 10 MB more than of the same program when it was read as it was needed. What a process has mapped
// meanwhile stays.
func (s Spec) Uncache() error {
	f, err := os.Open(s.Binary)
	if err != nil {
		return fmt.Errorf("open the executable of %s: %w", s.Name, err)
	}
	defer f.Close()
	// What has not been written to disk cannot be forgotten.
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write the executable of %s to disk: %w", s.Name, err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("have the executable of %s forgotten: %w", s.Name, err)
	}
	return nil
}
