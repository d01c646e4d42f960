#include "daemon/core/config.h"
#include "daemon/core/blocking.h"
#include "daemon/core/credentials.h"
#include "daemon/core/disk_open.h"
#include "daemon/core/expiry.h"
#include "daemon/core/registry_state.h"
#include "daemon/core/rows.h"

/* Files that are opened or closed at once; as many may hang before others wait for them. */
#define PARALLEL 32

/* A process that was killed keeps its locks until what it had given to io_uring has landed: a
 * daemon that is started again at once waits for that, a little while. */
#define LOCK_PATIENCE (G_USEC_PER_SEC)
#define LOCK_PAUSE    (5 * G_USEC_PER_SEC / 1000)

/* Answers whose file it is already, or takes it for the entry. */
static char *take_identity(Registry *registry, DiskEntry *entry, const BackendIdentity *identity)
{
    registry_lock(registry);
    DiskEntry *holder = registry_find_identity(registry, identity);
    char *problem = NULL;
    if (holder && holder != entry)
        problem = g_strdup_printf("%s is the file of disk '%s' already", entry->path, holder->name);
    else
        entry->identity = *identity;
    entry->identified = true;
    registry_unlock(registry);
    return problem;
}

static Disk *open_patiently(Registry *registry, const DiskEntry *entry,
                            const BackendIdentity *identity, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + LOCK_PATIENCE;
    for (;;) {
        GError *local = NULL;
        Disk *disk =
            disk_open_until(registry->store, entry, identity, false, DISK_OPEN_PATIENT, &local);
        if (disk)
            return disk;
        if (!g_error_matches(local, STORAGE_ERROR, STORAGE_ERROR_LOCKED) ||
            g_get_monotonic_time() > deadline) {
            g_propagate_error(error, local);
            return NULL;
        }
        g_error_free(local);
        g_usleep(LOCK_PAUSE);
    }
}

static void open_one(gpointer item, gpointer data)
{
    DiskEntry *entry = item;
    Registry *registry = data;
    BackendIdentity identity;
    GError *error = NULL;
    g_autofree char *problem = NULL, *warning = NULL;
    g_autoptr(Disk) disk = NULL;
    if (disk_identify(entry->path, DISK_OPEN_PATIENT, &identity, &error)) {
        problem = disk_own_state_problem(registry->facts.state_dir, entry->path, &identity);
        if (!problem)
            problem = take_identity(registry, entry, &identity);
        if (!problem)
            disk = open_patiently(registry, entry, &identity, &error);
    }
    bool locked = g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED);
    if (error) {
        problem = g_strdup(error->message);
        g_error_free(error);
    }
    registry_lock(registry);
    /* It may have been removed while its file did not answer. */
    bool known = registry_find_disk(registry, entry->name) == entry;
    if (known && problem)
        warning = g_strdup_printf("disk '%s' is not there: %s", entry->name, problem);
    if (known) {
        entry->state = disk ? DISK_READY : DISK_MISSING;
        entry->locked = locked;
        entry->disk = g_steal_pointer(&disk);
        g_free(entry->problem);
        entry->problem = g_steal_pointer(&problem);
        if (!entry->disk)
            entry->identified = false;
        if (registry->disks_loaded)
            events_post(registry->events, TOPIC_DISK, "changed", entry->name, NULL,
                        entry->disk ? "ready" : "missing");
    }
    registry_unlock(registry);
    if (warning)
        g_warning("%s", warning);
}

static void take_disks(Registry *registry, const GPtrArray *rows, GPtrArray *entries)
{
    for (guint i = 0; i < rows->len; i++) {
        DiskEntry *entry = disk_entry_from_row(rows->pdata[i]);
        entry->problem = g_strdup("its file has not answered since the daemon started");
        g_ptr_array_add(entries, disk_entry_ref(entry));
        registry_lock(registry);
        g_hash_table_insert(registry->disks, entry->name, entry);
        registry_unlock(registry);
    }
}

static void take_exports(Registry *registry, const GPtrArray *rows)
{
    for (guint i = 0; i < rows->len; i++) {
        GError *error = NULL;
        g_autoptr(ExportConfig) config = export_config_from_row(rows->pdata[i], &error);
        if (!config) {
            g_warning("left aside: %s", error->message);
            g_error_free(error);
            continue;
        }
        registry_lock(registry);
        DiskEntry *disk = registry_find_disk(registry, config->disk);
        if (disk)
            registry_put_export(registry, export_new(config, disk));
        if (config->allow && allow_list_wants_groups(config->allow))
            registry->groups_wanted = true;
        expiry_note(registry, config->allow);
        registry_unlock(registry);
        if (!disk)
            g_warning("left aside: export '%s' is of disk '%s', which is not there", config->name,
                      config->disk);
    }
}

bool config_load(Registry *registry, gint64 deadline, GError **error)
{
    g_autoptr(StoreConfig) config = store_load_config(registry->store, error);
    if (!config)
        return false;
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func((GDestroyNotify)disk_entry_unref);
    take_disks(registry, config->disks, entries);
    take_exports(registry, config->exports);
    if (!run_all_until(entries, open_one, registry, PARALLEL, deadline))
        g_warning("some disks are still being opened: their files do not answer");
    registry_lock(registry);
    registry->disks_loaded = true;
    registry_unlock(registry);
    return true;
}

bool config_load_listeners(Registry *registry, gint64 deadline, GError **error)
{
    g_autoptr(StoreConfig) config = store_load_config(registry->store, error);
    if (!config)
        return false;
    credentials_restore(registry, config->credentials, deadline);
    for (guint i = 0; i < config->listeners->len; i++) {
        g_autoptr(ListenerEntry) entry = listener_entry_from_row(config->listeners->pdata[i]);
        g_autofree char *problem = NULL;
        listeners_restore(registry, entry, &problem);
        if (problem)
            g_warning("listener '%s' does not listen: %s", entry->name, problem);
    }
    return true;
}

static void close_one(gpointer item, gpointer data)
{
    DiskEntry *entry = item;
    GError *error = NULL;
    if (!disk_close_clean(entry->disk, &error)) {
        g_warning("disk '%s' was not closed cleanly: %s", entry->name, error->message);
        g_error_free(error);
    }
}

bool config_close_disks(Registry *registry, gint64 deadline)
{
    g_autoptr(GPtrArray) open = g_ptr_array_new_with_free_func((GDestroyNotify)disk_entry_unref);
    registry_lock(registry);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->disks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        if (((DiskEntry *)value)->disk)
            g_ptr_array_add(open, disk_entry_ref(value));
    }
    registry_unlock(registry);
    return run_all_until(open, close_one, NULL, PARALLEL, deadline);
}
