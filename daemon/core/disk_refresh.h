/* disk.refresh: looks at a disk's backing file again. */
#ifndef CORE_DISK_REFRESH_H
#define CORE_DISK_REFRESH_H

#include "daemon/core/registry.h"
#include <glib.h>
#include <stdbool.h>

/* An open disk: takes over the size that its file has now. A missing one: opens it, and its exports
 * are offered again. dry_run: only checks that there is such a disk and, for a missing one, that
 * its file is there. Blocks, for some seconds at most. Errors: API_ERROR. */
bool disk_entry_refresh(Registry *registry, const char *name, bool dry_run, GError **error);

/* Disks that are missing because somebody else had locked their files: their names, which the
 * caller frees. */
GPtrArray *disks_list_locked(Registry *registry);
/* Tries to open them, as disk_entry_refresh does. Whether some are left. One whose file is not
 * there is not tried: it may come back piece by piece. */
bool disks_retry(Registry *registry);

#endif
