/* A disk as the registry knows it: its configuration, and the open Disk when there is one.
 *
 * A configured disk whose file is gone at the start of the daemon (or hangs) stays registered
 * without a Disk, and says why; `disk.refresh` or a restart brings it back, and one that somebody
 * else had locked comes back by itself. Name, path and the
 * other settings never change; state, problem, disk and identity change under the registry's
 * lock. Reference-counted. */
#ifndef CORE_DISK_ENTRY_H
#define CORE_DISK_ENTRY_H

#include "daemon/core/refs.h"
#include "storage/disk.h"
#include <glib.h>
#include <sys/types.h>

typedef enum {
    DISK_OPENING, /* being opened since the start; a file that hangs stays like this */
    DISK_READY,
    DISK_MISSING, /* `problem` says why; its exports are not offered */
} DiskState;

typedef struct {
    RefCount refs;
    int64_t row; /* StoreDisk.id; 0: added since the start */
    char *name, *path;
    bool read_only;
    CacheMode cache;
    bool implicit; /* made by export.add path=...: goes with its last export */
    DiskState state;
    char *problem;   /* NULL when ready */
    bool locked;     /* missing for somebody else's lock alone: it is tried again */
    Disk *disk;      /* NULL unless ready */
    bool identified; /* while it is open or being opened: one inode or device is one disk */
    BackendIdentity identity;
} DiskEntry;

DiskEntry *disk_entry_new(const char *name, const char *path, bool read_only, CacheMode cache,
                          bool implicit); /* opening */
DiskEntry *disk_entry_ref(DiskEntry *entry);
void disk_entry_unref(DiskEntry *entry); /* takes NULL; the last one closes the disk: may block */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskEntry, disk_entry_unref)

#endif
