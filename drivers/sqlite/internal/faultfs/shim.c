#include "shim.h"
#include "_cgo_export.h"

#include <errno.h>
#include <stddef.h>

enum {
	// As in faultfs.go.
	OP_WRITE = 0,
	OP_SYNC = 1,
	OP_TRUNCATE = 2,
	OP_DELETE = 3,
	OP_COMMITTED = 4,
	OP_READ = 5,
};

typedef struct {
	sqlite3_file base;
	const char *name; // lives as long as the file: see xOpen in SQLite's documentation
	sqlite3_file *real;
} shim_file;

static sqlite3_vfs *parent;
static sqlite3_vfs shim_vfs;

#define REAL(f) (((shim_file *)(f))->real)
#define NAME(f) ((char *)((shim_file *)(f))->name)

static int fail(int number, int rc) {
	errno = number;
	return rc == SQLITE_IOERR_WRITE && number == ENOSPC ? SQLITE_FULL : rc;
}

static int x_close(sqlite3_file *f) { return REAL(f)->pMethods->xClose(REAL(f)); }

static int x_read(sqlite3_file *f, void *p, int n, sqlite3_int64 off) {
	struct faultfsVerdict_return v = faultfsVerdict(OP_READ, NAME(f), 0, n, off);
	if (v.r0) return fail(v.r0, SQLITE_IOERR_READ);
	return REAL(f)->pMethods->xRead(REAL(f), p, n, off);
}

static int x_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 off) {
	struct faultfsVerdict_return v = faultfsVerdict(OP_WRITE, NAME(f), (void *)p, n, off);
	if (!v.r0) return REAL(f)->pMethods->xWrite(REAL(f), p, n, off);
	if (v.r1 > n) v.r1 = n;
	if (v.r1 > 0) {
		int rc = REAL(f)->pMethods->xWrite(REAL(f), p, v.r1, off);
		if (rc) return rc;
	}
	return fail(v.r0, SQLITE_IOERR_WRITE);
}

static int x_truncate(sqlite3_file *f, sqlite3_int64 size) {
	struct faultfsVerdict_return v = faultfsVerdict(OP_TRUNCATE, NAME(f), 0, 0, size);
	if (v.r0) return fail(v.r0, SQLITE_IOERR_TRUNCATE);
	return REAL(f)->pMethods->xTruncate(REAL(f), size);
}

static int x_sync(sqlite3_file *f, int flags) {
	struct faultfsVerdict_return v = faultfsVerdict(OP_SYNC, NAME(f), 0, 0, 0);
	if (v.r0) return fail(v.r0, SQLITE_IOERR_FSYNC);
	int rc = REAL(f)->pMethods->xSync(REAL(f), flags);
	if (rc == SQLITE_OK) faultfsSynced(NAME(f));
	return rc;
}

static int x_file_control(sqlite3_file *f, int op, void *arg) {
	if (op == SQLITE_FCNTL_COMMIT_PHASETWO) {
		struct faultfsVerdict_return v = faultfsVerdict(OP_COMMITTED, NAME(f), 0, 0, 0);
		if (v.r0) return fail(v.r0, SQLITE_IOERR);
	}
	return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}

static int x_file_size(sqlite3_file *f, sqlite3_int64 *size) { return REAL(f)->pMethods->xFileSize(REAL(f), size); }
static int x_lock(sqlite3_file *f, int l) { return REAL(f)->pMethods->xLock(REAL(f), l); }
static int x_unlock(sqlite3_file *f, int l) { return REAL(f)->pMethods->xUnlock(REAL(f), l); }
static int x_check_reserved(sqlite3_file *f, int *out) { return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out); }
static int x_sector_size(sqlite3_file *f) { return REAL(f)->pMethods->xSectorSize(REAL(f)); }
static int x_device(sqlite3_file *f) { return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f)); }
static int x_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **pp) {
	return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, pp);
}
static int x_shm_lock(sqlite3_file *f, int off, int n, int flags) { return REAL(f)->pMethods->xShmLock(REAL(f), off, n, flags); }
static void x_shm_barrier(sqlite3_file *f) { REAL(f)->pMethods->xShmBarrier(REAL(f)); }
static int x_shm_unmap(sqlite3_file *f, int delete) { return REAL(f)->pMethods->xShmUnmap(REAL(f), delete); }

static const sqlite3_io_methods methods = {
	2, x_close, x_read, x_write, x_truncate, x_sync, x_file_size, x_lock, x_unlock, x_check_reserved,
	x_file_control, x_sector_size, x_device, x_shm_map, x_shm_lock, x_shm_barrier, x_shm_unmap,
};

static int x_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
	shim_file *f = (shim_file *)file;
	f->name = name;
	f->real = (sqlite3_file *)(f + 1);
	int rc = parent->xOpen(parent, name, f->real, flags, out);
	f->base.pMethods = f->real->pMethods ? &methods : NULL;
	return rc;
}

static int x_delete(sqlite3_vfs *vfs, const char *name, int sync) {
	struct faultfsVerdict_return v = faultfsVerdict(OP_DELETE, (char *)name, 0, 0, 0);
	if (v.r0) return fail(v.r0, SQLITE_IOERR_DELETE);
	return parent->xDelete(parent, name, sync);
}

int faultfs_register(void) {
	if (parent) return SQLITE_OK;
	if (!sqlite3_vfs_find || !(parent = sqlite3_vfs_find("unix-excl"))) return SQLITE_IOERR;
	shim_vfs = *parent;
	shim_vfs.zName = "faultfs";
	shim_vfs.pNext = NULL;
	shim_vfs.szOsFile = sizeof(shim_file) + parent->szOsFile;
	shim_vfs.xOpen = x_open;
	shim_vfs.xDelete = x_delete;
	return sqlite3_vfs_register(&shim_vfs, 0);
}
