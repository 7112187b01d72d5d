// Package walfs is a file system for SQLite, a VFS in front of another one, that writes its
// write-ahead log in few large pieces. SQLite writes each page of a transaction with two calls of the
// system, one for 24 bytes and one for the page. Here they are held back and written
// together when the log is synced, which with synchronous=FULL, and with
// nothing less, is before anybody is told of the commit. Everything else, and every other file, is the parent's.
//
// A write that fails is so reported by the sync, before SQLite has
// told anybody of the transaction: it rolls back as if the write itself had failed.
package walfs

// #cgo CFLAGS: -std=gnu99 -O2
// #include <stdlib.h>
// #include "walfs.h"
import "C"

import (
	"fmt"
	"sync"
	"unsafe"
)

var registering sync.Mutex

// Register puts a VFS in front of the one named parent, once for the process, and gives its name.
func Register(parent string) (string, error) {
	registering.Lock()
	defer registering.Unlock()
	p := C.CString(parent)
	defer C.free(unsafe.Pointer(p))
	name := C.walfs_register(p)
	if name == nil {
		return "", fmt.Errorf("SQLite has no VFS %q to stand before", parent)
	}
	return C.GoString(name), nil
}
