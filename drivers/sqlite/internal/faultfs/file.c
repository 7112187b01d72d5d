#include "shim.h"

#include <stdlib.h>

enum { OPEN_READWRITE = 2, OPEN_CREATE = 4 };

sqlite3_file *faultfs_open(const char *vfs_name, const char *path, int kind, int *rc) {
	sqlite3_vfs *vfs = sqlite3_vfs_find ? sqlite3_vfs_find(vfs_name) : NULL;
	sqlite3_file *f = vfs ? calloc(1, vfs->szOsFile) : NULL;
	int out;
	*rc = f ? vfs->xOpen(vfs, path, f, kind | OPEN_READWRITE | OPEN_CREATE, &out) : SQLITE_IOERR;
	return f;
}

int faultfs_close(sqlite3_file *f) {
	int rc = f->pMethods->xClose(f);
	free(f);
	return rc;
}

int faultfs_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) { return f->pMethods->xRead(f, p, n, at); }
int faultfs_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) { return f->pMethods->xWrite(f, p, n, at); }
int faultfs_truncate(sqlite3_file *f, sqlite3_int64 size) { return f->pMethods->xTruncate(f, size); }
int faultfs_sync(sqlite3_file *f) { return f->pMethods->xSync(f, 2); }
int faultfs_size(sqlite3_file *f, sqlite3_int64 *size) { return f->pMethods->xFileSize(f, size); }
