#include "daemon/core/disk_entry.h"

DiskEntry *disk_entry_new(const char *name, const char *path, bool read_only, CacheMode cache,
                          bool implicit)
{
    DiskEntry *entry = g_new0(DiskEntry, 1);
    refs_init(&entry->refs);
    entry->name = g_strdup(name);
    entry->path = g_strdup(path);
    entry->read_only = read_only;
    entry->cache = cache;
    entry->implicit = implicit;
    entry->state = DISK_OPENING;
    return entry;
}

DiskEntry *disk_entry_ref(DiskEntry *entry)
{
    refs_take(&entry->refs);
    return entry;
}

void disk_entry_unref(DiskEntry *entry)
{
    if (!entry || !refs_drop(&entry->refs))
        return;
    if (entry->disk)
        disk_unref(entry->disk);
    g_free(entry->name);
    g_free(entry->path);
    g_free(entry->problem);
    g_free(entry);
}
