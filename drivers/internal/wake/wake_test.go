package wake

import "testing"

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// TestSignal: all who asked before a change hear of it, and nobody who asks after it.
func TestSignal(t *testing.T) {
	var s Signal
	s.All() // nobody waits
	one, two := s.Next(), s.Next()
	if closed(one) || closed(two) {
		t.Error("woken without a change")
	}
	s.All()
	if !closed(one) || !closed(two) {
		t.Error("not woken by a change")
	}
	if closed(s.Next()) {
		t.Error("woken by a change of before")
	}
}
