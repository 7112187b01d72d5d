package sqlite

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// Options says where a log lies and how it is kept. Only Path is required.
type Options struct {
	// Path is the database file. Its directory must exist; the file is made
	// if it does not. SQLite's write-ahead log lies beside it, as Path + "-wal".
	Path string

	// ReadOnly opens the log of a stopped server for inspection: nothing is
	// made, migrated, recovered into the file or written, and every method that would write returns
	// ErrReadOnly. Several processes may have a log open so at once. Default: false.
	ReadOnly bool

	// Readers is the number of connections that read beside the writer, and
	// so the number of reads that run at once; more of them wait. Default: 4.
	Readers int

	// WriterCache and ReaderCache bound the page cache of the writer's
	// connection and of each reader's, in bytes. A reader's cache is worth
	// little while there are writes, since each commit empties it. Default: 4 MiB and
	// 1 MiB.
	WriterCache, ReaderCache int64

	// CheckpointBytes is the size of the write-ahead log at which its pages
	// are copied into the database and it is begun anew. A larger one writes
	// fewer bytes (a page changed often is copied once) and takes longer to recover
	// after a crash. Default: 4 MiB.
	CheckpointBytes int64

	// PageSize of a database that is made; an existing one keeps its own. A power of two from 512 to
	// 65536. DESIGN.md has the measurements behind the default: 1024.
	PageSize int

	// FreePages is the share of the file, in percent, that may be free
	// pages before they are given back to the file system in the background. Free
	// pages are reused by appends, so giving all of them back at once would only
	// make the file shrink and grow. Defragment gives all back. Default: 25; -1: never.
	FreePages int

	// Logger gets warnings about what goes on in the background. Default: slog.Default().
	Logger *slog.Logger

	// vfs is the SQLite file system of a log that is not ReadOnly, walfs stands before it. Tests set it. Default: unix-excl.
	vfs string
}

func (o Options) withDefaults() Options {
	o.Readers = cmp.Or(o.Readers, 4)
	o.WriterCache = cmp.Or(o.WriterCache, 4<<20)
	o.ReaderCache = cmp.Or(o.ReaderCache, 1<<20)
	o.CheckpointBytes = cmp.Or(o.CheckpointBytes, 4<<20)
	o.PageSize = cmp.Or(o.PageSize, 1024)
	o.FreePages = cmp.Or(o.FreePages, 25)
	o.vfs = cmp.Or(o.vfs, "unix-excl")
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return o
}

// followLink makes Path that of the file itself if it is a symbolic link: SQLite keeps the
// write-ahead log beside the file, not beside the link.
func (o *Options) followLink() error {
	info, err := os.Lstat(o.Path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return nil // that there is no file, say, is for others to tell
	}
	path, err := filepath.EvalSymlinks(o.Path)
	if err != nil {
		return err
	}
	o.Path = path
	return nil
}

func (o Options) validate() error {
	if o.Path == "" {
		return errors.New("the path of the database is missing")
	}
	if o.Readers < 1 || o.WriterCache < 0 || o.ReaderCache < 0 || o.CheckpointBytes < 1 || o.FreePages < -1 {
		return fmt.Errorf("an option is negative: %d readers, caches of %d and %d bytes, checkpoint at %d bytes",
			o.Readers, o.WriterCache, o.ReaderCache, o.CheckpointBytes)
	}
	if o.PageSize < 512 || o.PageSize > 65536 || o.PageSize&(o.PageSize-1) != 0 {
		return fmt.Errorf("a page size of %d is not a power of two from 512 to 65536", o.PageSize)
	}
	return nil
}
