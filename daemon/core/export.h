/* An export: a named NBD view of a disk, its settings, and who is connected to it.
 *
 * The settings are immutable: a change makes new ones and swaps them in at the commit, so a
 * reference taken under the registry's lock stays true to itself afterwards. What changes (the
 * clients, `removing`) is read and written under that lock. */
#ifndef CORE_EXPORT_H
#define CORE_EXPORT_H

#include "daemon/core/allow.h"
#include "daemon/core/client.h"
#include "daemon/core/disk_entry.h"
#include "daemon/core/refs.h"
#include "daemon/core/throttle.h"
#include <glib.h>

/* Stored as a number in the database: never renumber. */
typedef enum {
    SHARING_EXCLUSIVE = 0,     /* one client */
    SHARING_SINGLE_WRITER = 1, /* one writes, the others get a read-only view */
    SHARING_SHARED = 2,        /* any number, all coherent */
} SharingMode;

/* When an exclusive export is in use. Stored as a number in the database: never renumber. */
typedef enum {
    EXPORT_ON_BUSY_REFUSE = 0, /* the newcomer is refused */
    EXPORT_ON_BUSY_WAIT = 1,   /* it waits, within the time for its handshake */
    EXPORT_ON_BUSY_STEAL = 2,  /* it ends an older connection of the same identity */
} ExportOnBusy;

typedef struct {
    RefCount refs;
    char *name;
    char *disk;        /* its name */
    char *description; /* NULL: none */
    bool read_only;
    SharingMode sharing;
    uint32_t max_clients; /* 0: no bound of its own */
    char **bitmaps;       /* NULL: every bitmap of the disk, added later or now */
    AllowList *allow;     /* NULL: everyone */
    bool tls_required;
    ExportOnBusy on_busy;
    uint32_t max_clients_per_identity; /* 0: the daemon's default */
    ThrottleLimits qos;
} ExportConfig;

ExportConfig *export_config_new(const char *name, const char *disk); /* defaults */
ExportConfig *export_config_copy(const ExportConfig *config);        /* to be changed, then used */
ExportConfig *export_config_ref(ExportConfig *config);
void export_config_unref(ExportConfig *config); /* takes NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ExportConfig, export_config_unref)
bool export_config_equal(const ExportConfig *a, const ExportConfig *b);
/* True when clients may be offered the bitmap of this name through the export. */
bool export_config_shows_bitmap(const ExportConfig *config, const char *bitmap);

typedef struct {
    RefCount refs;
    ExportConfig *config; /* swapped under the lock */
    DiskEntry *disk;      /* a reference */
    Throttle *throttle;   /* never changes; its limits are the config's */
    GPtrArray *clients;   /* of Client, in the order they attached; each takes itself out */
    unsigned writers;     /* how many of them may write */
    GPtrArray *waiters;   /* of Client, first come first: wait for it to be free (client_queue.c) */
    bool removing;        /* nobody attaches any more */
    bool gone;            /* out of the registry; kept by clients that have not closed yet */
    IoStats *totals;      /* of the clients that have closed */
} Export;

Export *export_new(ExportConfig *config, DiskEntry *disk); /* takes references of its own */
Export *export_ref(Export *export);
void export_unref(Export *export); /* takes NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Export, export_unref)

#endif
