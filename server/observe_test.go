package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/metrics"
)

// TestSlowAppend: an append beyond --warning-apply-duration is warned of, with how many requests it held up.
func TestSlowAppend(t *testing.T) {
	var log bytes.Buffer
	opts := config.Default()
	opts.WarningApplyDuration = 100 * time.Millisecond
	n := &Node{opts: opts, logger: slog.New(slog.NewTextHandler(&log, nil)), counted: metrics.New(metrics.Options{SlowApply: opts.WarningApplyDuration})}
	n.appended(3, 4, 100*time.Millisecond)
	if log.Len() > 0 {
		t.Errorf("logged %q", log.String())
	}
	n.appended(3, 4, 101*time.Millisecond)
	for _, part := range []string{"level=WARN", "took=101ms", "expected_duration=100ms", "requests=3", "entries=4"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("logged %q, without %s", log.String(), part)
		}
	}
}
