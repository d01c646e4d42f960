#include "daemon/core/disk_refresh.h"
#include "daemon/core/blocking.h"
#include "daemon/core/disk_open.h"
#include "daemon/core/txn_state.h"

#define PATIENCE (10 * G_USEC_PER_SEC)

typedef struct {
    Disk *disk; /* a reference */
    GError *error;
} Refreshing;

static void refreshing_free(gpointer data)
{
    Refreshing *refreshing = data;
    disk_unref(refreshing->disk);
    g_clear_error(&refreshing->error);
    g_free(refreshing);
}

static void refresh(gpointer data)
{
    Refreshing *refreshing = data;
    disk_refresh(refreshing->disk, &refreshing->error);
}

static bool refresh_open(Registry *registry, const DiskEntry *entry, Disk *disk, gint64 deadline,
                         GError **error)
{
    uint64_t before = disk_size(disk);
    Refreshing *refreshing = g_new0(Refreshing, 1);
    refreshing->disk = disk_ref(disk);
    if (!run_until(refresh, refreshing, refreshing_free, deadline, NULL)) {
        api_error_set(error, ERROR_TIMEOUT, "/params/name",
                      "%s does not answer (its file system or device hangs)", entry->path);
        return false;
    }
    bool good = !refreshing->error;
    if (!good)
        api_error_propagate(error, g_steal_pointer(&refreshing->error), "/params/name");
    else if (disk_size(disk) != before)
        events_post(registry->events, TOPIC_DISK, "changed", entry->name, NULL, "size");
    refreshing_free(refreshing);
    return good;
}

static bool reopen(Registry *registry, DiskEntry *entry, gint64 deadline, bool dry_run,
                   GError **error)
{
    BackendIdentity identity;
    GError *local = NULL;
    if (!disk_identify(entry->path, deadline, &identity, &local)) {
        api_error_propagate(error, local, "/params/name");
        return false;
    }
    g_autofree char *own =
        disk_own_state_problem(registry->facts.state_dir, entry->path, &identity);
    if (own) {
        api_error_set(error, ERROR_INVALID_STATE, "/params/name", "%s", own);
        return false;
    }
    registry_lock(registry);
    DiskEntry *holder = registry_find_identity(registry, &identity);
    g_autofree char *name = holder ? g_strdup(holder->name) : NULL;
    registry_unlock(registry);
    if (name) {
        api_error_set(error, ERROR_BUSY, "/params/name", "%s is the file of disk '%s' already",
                      entry->path, name);
        return false;
    }
    if (dry_run)
        return true;
    Disk *disk = disk_open_until(registry->store, entry, &identity, false, deadline, &local);
    g_autofree char *problem = NULL;
    registry_lock(registry);
    if (disk) {
        entry->disk = disk;
        entry->identity = identity;
        entry->identified = true;
        entry->state = DISK_READY;
        entry->locked = false;
        problem = g_steal_pointer(&entry->problem);
        events_post(registry->events, TOPIC_DISK, "changed", entry->name, NULL, "ready");
    } else {
        problem = entry->problem;
        entry->problem = g_strdup(local->message);
        entry->locked = g_error_matches(local, STORAGE_ERROR, STORAGE_ERROR_LOCKED);
    }
    registry_unlock(registry);
    if (!disk)
        api_error_propagate(error, local, "/params/name");
    return disk != NULL;
}

bool disk_entry_refresh(Registry *registry, const char *name, bool dry_run, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE;
    Txn *txn = txn_begin(registry, deadline); /* only for its claim */
    if (!txn_claim(txn, CLAIM_DISK, name, error)) {
        txn_abort(txn);
        return false;
    }
    registry_lock(registry);
    DiskEntry *found = registry_find_disk(registry, name);
    g_autoptr(DiskEntry) entry = found ? disk_entry_ref(found) : NULL;
    DiskState state = entry ? entry->state : DISK_MISSING;
    Disk *disk = entry ? entry->disk : NULL; /* stays: the entry has it */
    registry_unlock(registry);

    bool good = false;
    if (!entry)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no disk '%s'", name);
    else if (state == DISK_OPENING)
        api_error_set(error, ERROR_INVALID_STATE, "/params/name",
                      "disk '%s' is still being opened since the start: its file does not answer",
                      name);
    else if (disk)
        good = dry_run || refresh_open(registry, entry, disk, deadline, error);
    else
        good = reopen(registry, entry, deadline, dry_run, error);
    txn_abort(txn);
    return good;
}

GPtrArray *disks_list_locked(Registry *registry)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    registry_lock(registry);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->disks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const DiskEntry *entry = value;
        if (entry->state == DISK_MISSING && entry->locked)
            g_ptr_array_add(names, g_strdup(entry->name));
    }
    registry_unlock(registry);
    return names;
}

bool disks_retry(Registry *registry)
{
    g_autoptr(GPtrArray) locked = disks_list_locked(registry);
    for (guint i = 0; i < locked->len; i++)
        disk_entry_refresh(registry, locked->pdata[i], false, NULL);
    g_autoptr(GPtrArray) left = disks_list_locked(registry);
    return left->len > 0;
}
