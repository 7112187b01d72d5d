package faultfs

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// File is a write-ahead log that is opened through a VFS as SQLite opens it, to try the VFS without SQLite.
type File struct {
	f    *C.sqlite3_file
	name *C.char // the VFS may keep it for as long as the file is open
}

// Code is what SQLite's error codes are: not 0.
type Code int

func (c Code) Error() string { return fmt.Sprintf("SQLite's error %d", int(c)) }

func failed(rc C.int) error {
	if rc == 0 {
		return nil
	}
	return Code(rc)
}

// OpenWAL opens a write-ahead log through a VFS that is registered.
func OpenWAL(vfs, path string) (*File, error) {
	v := C.CString(vfs)
	defer C.free(unsafe.Pointer(v))
	f := &File{name: C.CString(path)}
	var rc C.int
	f.f = C.faultfs_open(v, f.name, C.SQLITE_OPEN_WAL, &rc)
	return f, failed(rc)
}

// ReadAt reads; what is behind the end of the file is an error and reads as zeros.
func (f *File) ReadAt(p []byte, at int64) error {
	return failed(C.faultfs_read(f.f, unsafe.Pointer(unsafe.SliceData(p)), C.int(len(p)), C.sqlite3_int64(at)))
}

// WriteAt writes.
func (f *File) WriteAt(p []byte, at int64) error {
	return failed(C.faultfs_write(f.f, unsafe.Pointer(unsafe.SliceData(p)), C.int(len(p)), C.sqlite3_int64(at)))
}

// Truncate sets the size.
func (f *File) Truncate(size int64) error {
	return failed(C.faultfs_truncate(f.f, C.sqlite3_int64(size)))
}

// Sync makes what was written durable.
func (f *File) Sync() error { return failed(C.faultfs_sync(f.f)) }

// Size is the size of the file.
func (f *File) Size() (int64, error) {
	var n C.sqlite3_int64
	rc := C.faultfs_size(f.f, &n)
	return int64(n), failed(rc)
}

// Close closes the file.
func (f *File) Close() error {
	defer C.free(unsafe.Pointer(f.name))
	return failed(C.faultfs_close(f.f))
}
