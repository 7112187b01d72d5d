package wake

import "sync"

// Signal is of one thing that changes. Its zero value is ready, its methods are called concurrently, and it is not copied.
//
// Who waits takes Next first, looks at the thing then, and waits after that: so no change is missed.
type Signal struct {
	mu sync.Mutex
	ch chan struct{} // nil if nobody has asked for it
}

// Next gives a channel that is closed by the next call of All.
func (s *Signal) Next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

// All wakes all who wait.
func (s *Signal) All() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
