#include "sqliteabi.h"

int faultfs_register(void);

// A file of any VFS, used without SQLite.
sqlite3_file *faultfs_open(const char *vfs, const char *path, int kind, int *rc);
int faultfs_close(sqlite3_file *);
int faultfs_read(sqlite3_file *, void *, int, sqlite3_int64);
int faultfs_write(sqlite3_file *, const void *, int, sqlite3_int64);
int faultfs_truncate(sqlite3_file *, sqlite3_int64);
int faultfs_sync(sqlite3_file *);
int faultfs_size(sqlite3_file *, sqlite3_int64 *);
