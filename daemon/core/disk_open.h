/* Opening backing files without hanging on them: at the start, for disk.add and disk.refresh. */
#ifndef CORE_DISK_OPEN_H
#define CORE_DISK_OPEN_H

#include "daemon/core/disk_entry.h"
#include "storage/store.h"
#include <glib.h>

/* Which file the path is now. Errors: STORAGE_ERROR, TIMEOUT at the deadline. */
bool disk_identify(const char *path, gint64 deadline, FileIdentity *ret_identity, GError **error);

/* Opens the entry's file; it must be the one that *identity names (it can be swapped between the
 * look and the opening). Reads the entry's settings alone. Errors as disk_identify. */
Disk *disk_open_until(Store *store, const DiskEntry *entry, const FileIdentity *identity,
                      gint64 deadline, GError **error);

#endif
