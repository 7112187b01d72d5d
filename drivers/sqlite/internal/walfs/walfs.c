#include "walfs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY = 64 << 10 };

// A write-ahead log, opened by one connection. SQLite puts its file object where
// we say that one of ours is, so the real one lies right behind.
typedef struct {
	sqlite3_file base;
	char *buffer; // of CAPACITY, or NULL before the first write
	int used;
	int lost; // the error with which bytes from offset `at` on were lost, or 0
	sqlite3_int64 at;
} wal_file;

#define REAL(w) ((sqlite3_file *)((w) + 1))

// flush writes what is held back. When that fails the bytes are lost, as they are for SQLite
// when a write of its own fails. SQLite then rolls back and begins again at or before
// the first of them; until it does, nothing may succeed that would build on them.
static int flush(wal_file *w) {
	if (w->used == 0) return SQLITE_OK;
	w->lost = REAL(w)->pMethods->xWrite(REAL(w), w->buffer, w->used, w->at);
	w->used = 0;
	return w->lost;
}

static int wal_write(sqlite3_file *f, const void *data, int size, sqlite3_int64 offset) {
	wal_file *w = (wal_file *)f;
	if (w->lost) {
		if (offset > w->at) return w->lost;
		w->lost = 0;
	}
	int within = w->used && offset >= w->at && offset <= w->at + w->used && offset + size <= w->at + CAPACITY;
	if (!within) {
		int rc = flush(w);
		if (rc) return rc;
		if (!w->buffer) w->buffer = malloc(CAPACITY);
		if (!w->buffer || size > CAPACITY) return REAL(w)->pMethods->xWrite(REAL(w), data, size, offset);
		w->at = offset;
	}
	int start = (int)(offset - w->at);
	memcpy(w->buffer + start, data, size);
	if (start + size > w->used) w->used = start + size;
	return SQLITE_OK;
}

static int wal_read(sqlite3_file *f, void *data, int size, sqlite3_int64 offset) {
	wal_file *w = (wal_file *)f;
	if (w->used && offset < w->at + w->used && offset + size > w->at) {
		if (offset >= w->at && offset + size <= w->at + w->used) {
			memcpy(data, w->buffer + (offset - w->at), size);
			return SQLITE_OK;
		}
		int rc = flush(w);
		if (rc) return rc;
	}
	return REAL(w)->pMethods->xRead(REAL(w), data, size, offset);
}

static int wal_sync(sqlite3_file *f, int flags) {
	wal_file *w = (wal_file *)f;
	int rc = w->lost ? w->lost : flush(w);
	return rc ? rc : REAL(w)->pMethods->xSync(REAL(w), flags);
}

static int wal_truncate(sqlite3_file *f, sqlite3_int64 size) {
	wal_file *w = (wal_file *)f;
	int rc = flush(w);
	return rc ? rc : REAL(w)->pMethods->xTruncate(REAL(w), size);
}

static int wal_file_size(sqlite3_file *f, sqlite3_int64 *size) {
	wal_file *w = (wal_file *)f;
	int rc = REAL(w)->pMethods->xFileSize(REAL(w), size);
	if (!rc && w->used && w->at + w->used > *size) *size = w->at + w->used;
	return rc;
}

// What is held back at the end has not been committed.
static int wal_close(sqlite3_file *f) {
	wal_file *w = (wal_file *)f;
	free(w->buffer);
	return REAL(w)->pMethods->xClose(REAL(w));
}

static int wal_lock(sqlite3_file *f, int l) { return REAL((wal_file *)f)->pMethods->xLock(REAL((wal_file *)f), l); }
static int wal_unlock(sqlite3_file *f, int l) { return REAL((wal_file *)f)->pMethods->xUnlock(REAL((wal_file *)f), l); }
static int wal_reserved(sqlite3_file *f, int *out) { return REAL((wal_file *)f)->pMethods->xCheckReservedLock(REAL((wal_file *)f), out); }
static int wal_control(sqlite3_file *f, int op, void *arg) { return REAL((wal_file *)f)->pMethods->xFileControl(REAL((wal_file *)f), op, arg); }
static int wal_sector(sqlite3_file *f) { return REAL((wal_file *)f)->pMethods->xSectorSize(REAL((wal_file *)f)); }
static int wal_device(sqlite3_file *f) { return REAL((wal_file *)f)->pMethods->xDeviceCharacteristics(REAL((wal_file *)f)); }

// Version 1: shared memory and maps are the database's.
static const sqlite3_io_methods methods = {
	.iVersion = 1,
	.xClose = wal_close,
	.xRead = wal_read,
	.xWrite = wal_write,
	.xTruncate = wal_truncate,
	.xSync = wal_sync,
	.xFileSize = wal_file_size,
	.xLock = wal_lock,
	.xUnlock = wal_unlock,
	.xCheckReservedLock = wal_reserved,
	.xFileControl = wal_control,
	.xSectorSize = wal_sector,
	.xDeviceCharacteristics = wal_device,
};

// Every file but a write-ahead log is the parent's alone.
static int wal_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
	sqlite3_vfs *parent = vfs->pAppData;
	if (!(flags & SQLITE_OPEN_WAL)) return parent->xOpen(parent, name, file, flags, out);
	wal_file *w = (wal_file *)file;
	memset(w, 0, sizeof *w);
	int rc = parent->xOpen(parent, name, REAL(w), flags, out);
	if (REAL(w)->pMethods) w->base.pMethods = &methods;
	return rc;
}

#define PARENT(vfs) ((sqlite3_vfs *)(vfs)->pAppData)

static int wal_delete(sqlite3_vfs *v, const char *name, int sync) { return PARENT(v)->xDelete(PARENT(v), name, sync); }
static int wal_access(sqlite3_vfs *v, const char *name, int flags, int *out) { return PARENT(v)->xAccess(PARENT(v), name, flags, out); }
static int wal_pathname(sqlite3_vfs *v, const char *name, int n, char *out) { return PARENT(v)->xFullPathname(PARENT(v), name, n, out); }

// walfs_register puts a VFS before the parent and gives its name, or NULL. A second call for the same
// parent finds the first one's.
const char *walfs_register(const char *parent_name) {
	sqlite3_vfs *parent = sqlite3_vfs_find ? sqlite3_vfs_find(parent_name) : NULL;
	if (!parent) return NULL;
	char name[64];
	snprintf(name, sizeof name, "wal-%s", parent_name);
	sqlite3_vfs *vfs = sqlite3_vfs_find(name);
	if (vfs) return vfs->zName;
	// They stay for as long as the process.
	vfs = malloc(sizeof *vfs);
	char *kept = strdup(name);
	if (!vfs || !kept) return NULL;
	*vfs = *parent;
	vfs->zName = kept;
	vfs->pNext = NULL;
	vfs->pAppData = parent;
	vfs->szOsFile = (int)sizeof(wal_file) + parent->szOsFile;
	vfs->xOpen = wal_open;
	vfs->xDelete = wal_delete;
	vfs->xAccess = wal_access;
	vfs->xFullPathname = wal_pathname;
	return sqlite3_vfs_register(vfs, 0) == SQLITE_OK ? kept : NULL;
}
