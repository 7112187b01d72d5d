package sqllog

// windows are parts of the log that are read one after the other, in either direction. Their size is such that what is found in one is not much.
type windows struct {
	lo, hi      int64 // what is still to be read
	size        int64
	newest      bool
	begun       bool
	after, upTo int64 // the current one
	read        int   // how many entries were read of it
}

// Windows have at least so many positions and at most so many, since behind holes all may be dense, and grow as long as there are less than so many changes in one, and until there are so many entries. One in which the changes
// would take more than so many bytes, by their keys and so much for each, ends before its time.
const (
	windowLeast   = 1 << 10
	windowMost    = 1 << 20
	windowEntries = 1 << 15
	windowChanges = 1000
	windowBytes   = 4 << 20
	changeBytes   = 128
)

func backward(lo, hi int64) *windows { return &windows{lo: lo, hi: hi, newest: true} }

// next goes on to the next window. found is how much was found in the last one.
func (w *windows) next(found int) bool {
	switch {
	case !w.begun:
		w.begun, w.size = true, windowLeast
	case found >= windowChanges || w.read > windowEntries:
		w.size = max(w.size/2, windowLeast)
	case 2*w.read <= windowEntries:
		w.size = min(2*w.size, windowMost)
	}
	w.read = 0
	if w.lo >= w.hi {
		return false
	}
	if w.newest {
		w.after, w.upTo = max(w.hi-w.size, w.lo), w.hi
		w.hi = w.after
	} else {
		w.after, w.upTo = w.lo, min(w.lo+w.size, w.hi)
		w.lo = w.upTo
	}
	return true
}

// narrow ends the current window at a position: what is at the other side of it comes in the next one.
func (w *windows) narrow(position int64) {
	if w.newest {
		w.after, w.hi = position, position
	} else {
		w.upTo, w.lo = position, position
	}
}
