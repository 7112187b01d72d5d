package sqllog

import (
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
)

// alone hides that a log can be shared.
func alone(o *Options) { o.Log = struct{ drivers.Log }{o.Log} }

// starter is start, or something like it.
type starter func(t *testing.T, mem *memory.Store, change ...func(*Options)) *server

// bothWays runs a test on a log that can be shared and on one that cannot, as an SQLite file.
func bothWays(t *testing.T, run func(*testing.T, starter)) {
	t.Run("shared", func(t *testing.T) { run(t, start) })
	t.Run("alone", func(t *testing.T) {
		run(t, func(t *testing.T, mem *memory.Store, change ...func(*Options)) *server {
			t.Helper()
			s := start(t, mem, append([]func(*Options){alone}, change...)...)
			if s.shared != nil {
				t.Error("the log is shared")
			}
			return s
		})
	})
}

// TestFollowAlone: on a log that is not shared there is nothing to follow.
func TestFollowAlone(t *testing.T) {
	s := start(t, memory.NewStore(), alone)
	if err := s.Follow(t.Context()); err != nil {
		t.Error(err)
	}
}
