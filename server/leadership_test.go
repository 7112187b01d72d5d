package server

import (
	"testing"
	"time"
)

// TestPatience: the lead is handed on at once the first time, then after longer and longer pauses, and after a short one when the disk could be written in between.
func TestPatience(t *testing.T) {
	var p patience
	now := time.Now()
	due := func(after time.Duration) {
		t.Helper()
		if now = now.Add(after); after > 0 && p.over(now.Add(-time.Millisecond)) {
			t.Errorf("handed on before %v", after)
		}
		if !p.over(now) {
			t.Errorf("not handed on after %v", after)
		}
	}
	p.healed()
	due(0)
	for pause := leaderCheck; pause < maxPatience; pause *= 2 {
		due(pause)
	}
	due(maxPatience)
	p.healed()
	due(leaderCheck)
	due(2 * leaderCheck)
}
