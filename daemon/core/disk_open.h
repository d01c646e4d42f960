/* Opening backing files without hanging on them: at the start, for disk.add and disk.refresh. */
#ifndef CORE_DISK_OPEN_H
#define CORE_DISK_OPEN_H

#include "daemon/core/disk_entry.h"
#include "storage/store.h"
#include <glib.h>

/* Instead of a deadline, for a thread that may hang itself. */
#define DISK_OPEN_PATIENT ((gint64)-1)

/* Which file the path is now. Errors: STORAGE_ERROR, TIMEOUT at the deadline. */
bool disk_identify(const char *path, gint64 deadline, BackendIdentity *ret_identity,
                   GError **error);

/* Says so if that file belongs to the daemon's own state, else NULL. That is no disk: a client
 * would write over it, and closing a file of SQLite's takes its locks away. Looked at without
 * opening anything. */
char *disk_own_state_problem(const char *state_dir, const char *path,
                             const BackendIdentity *identity);

/* Opens the entry's file (new: of a disk that the store does not have yet); it must be the one that
 * *identity names (it can be swapped between the look and the opening). Reads the entry's settings
 * alone. Errors as disk_identify. */
Disk *disk_open_until(Store *store, const DiskEntry *entry, const BackendIdentity *identity,
                      bool new, gint64 deadline, GError **error);

#endif
