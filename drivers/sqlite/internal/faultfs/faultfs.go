// Package faultfs is a file system for SQLite that fails on request, for
// tests: a VFS named "faultfs" in front of "unix-excl". A hook sees each
// operation that changes a file before it is done and may make it fail as
// a disk does, and a [Journal] knows what a loss of power would leave.
//
// There is one hook for the process; tests that use it do not run in parallel.
package faultfs

// #cgo CFLAGS: -std=gnu99 -O1 -I${SRCDIR}/../walfs
// #include "shim.h"
import "C"

import (
	"errors"
	"sync"
	"syscall"
	"unsafe"
)

// Name is the VFS's name, once Register has been called.
const Name = "faultfs"

// Kind says what an operation does.
type Kind int

// The kinds of operations; as in shim.c.
const (
	Write Kind = iota
	Sync
	Truncate // Offset is the new size
	Delete
	// Committed comes when a transaction is in the write-ahead log and its
	// COMMIT could still be answered with an error.
	Committed
	Read
)

// Op is an operation on a file.
type Op struct {
	Kind   Kind
	Path   string
	Offset int64
	Size   int
	Data   []byte // what is to be written; valid during the call
}

// Verdict on an operation. The zero Verdict lets it be done.
type Verdict struct {
	// Errno makes it fail; nothing is done, but for Part.
	Errno syscall.Errno
	// Part is how many bytes of a Write are written before it fails.
	Part int
}

// Hook decides about operations. It must not use SQLite.
type Hook interface {
	Before(op Op) Verdict
	// Synced is told that a file was synced with success.
	Synced(path string)
}

var state struct {
	sync.Mutex
	hook Hook
}

// Register makes the VFS known to SQLite.
func Register() error {
	state.Lock()
	defer state.Unlock()
	if rc := C.faultfs_register(); rc != 0 {
		return errors.New("faultfs: there is no VFS unix-excl to stand before")
	}
	return nil
}

// Set makes h the hook; nil for none.
func Set(h Hook) {
	state.Lock()
	defer state.Unlock()
	state.hook = h
}

func current() Hook {
	state.Lock()
	defer state.Unlock()
	return state.hook
}

//export faultfsVerdict
func faultfsVerdict(kind C.int, name *C.char, data unsafe.Pointer, n C.int, offset C.longlong) (C.int, C.int) {
	h := current()
	if h == nil || name == nil {
		return 0, 0
	}
	op := Op{Kind: Kind(kind), Path: C.GoString(name), Offset: int64(offset), Size: int(n)}
	if data != nil {
		op.Data = unsafe.Slice((*byte)(data), int(n))
	}
	v := h.Before(op)
	return C.int(v.Errno), C.int(v.Part)
}

//export faultfsSynced
func faultfsSynced(name *C.char) {
	if h := current(); h != nil && name != nil {
		h.Synced(C.GoString(name))
	}
}
