#include "sqliteabi.h"

const char *walfs_register(const char *parent);
