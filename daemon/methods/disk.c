/* disk.add, remove, list, show, refresh */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/disk_refresh.h"
#include "daemon/core/txn.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"

static ApiDiskState api_state(DiskState state)
{
    switch (state) {
    case DISK_OPENING:
        return API_DISK_STATE_OPENING;
    case DISK_READY:
        return API_DISK_STATE_READY;
    case DISK_MISSING:
        return API_DISK_STATE_MISSING;
    }
    g_assert_not_reached();
}

static ApiCacheMode api_cache(CacheMode cache)
{
    switch (cache) {
    case CACHE_WRITEBACK:
        return API_CACHE_MODE_WRITEBACK;
    case CACHE_DIRECT:
        return API_CACHE_MODE_DIRECT;
    }
    g_assert_not_reached();
}

static CacheMode core_cache(ApiCacheMode cache)
{
    switch (cache) {
    case API_CACHE_MODE_WRITEBACK:
        return CACHE_WRITEBACK;
    case API_CACHE_MODE_DIRECT:
        return CACHE_DIRECT;
    }
    g_assert_not_reached();
}

/* Under the registry's lock (or for an entry that is staged). Takes the lists. */
static void render(const DiskEntry *entry, char **exports, char **bitmaps, DiskObject *object)
{
    *object = (DiskObject){
        .name = g_strdup(entry->name),
        .path = g_strdup(entry->path),
        .state = api_state(entry->state),
        .problem = g_strdup(entry->problem),
        .read_only = entry->read_only,
        .cache = api_cache(entry->cache),
        .implicit = entry->implicit,
        .exports = exports,
        .bitmaps = bitmaps,
    };
    if (!entry->disk) {
        object->backend = g_strdup("");
        return;
    }
    const Backend *backend = disk_backend(entry->disk);
    object->size = disk_size(entry->disk);
    object->backend = g_strdup(backend->ops->name);
    object->minimum_block = backend->minimum_block;
    object->preferred_block = backend->preferred_block;
    object->rotational = backend->rotational;
    object->can_trim = backend->can_trim;
    object->can_fast_zero = backend->can_fast_zero;
}

static char **live_bitmaps(const DiskEntry *entry)
{
    if (!entry->disk)
        return g_new0(char *, 1);
    g_autoptr(GPtrArray) bitmaps = disk_list_bitmaps(entry->disk);
    char **names = g_new0(char *, bitmaps->len + 1);
    for (guint i = 0; i < bitmaps->len; i++)
        names[i] = g_strdup(bitmap_name(bitmaps->pdata[i]));
    return names;
}

static bool show_live(Registry *registry, const char *name, DiskObject *object, GError **error)
{
    registry_lock(registry);
    DiskEntry *entry = registry_find_disk(registry, name);
    if (entry) {
        g_autoptr(GPtrArray) exports = registry_list_exports_of(registry, name);
        char **names = g_new0(char *, exports->len + 1);
        for (guint i = 0; i < exports->len; i++)
            names[i] = g_strdup(((Export *)exports->pdata[i])->config->name);
        render(entry, names, live_bitmaps(entry), object);
    }
    registry_unlock(registry);
    if (!entry)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no disk '%s'", name);
    return entry != NULL;
}

bool method_disk_show(Call *call, const DiskShowParams *params, DiskShowResult *result,
                      GError **error)
{
    return show_live(call_registry(call), params->name, result, error);
}

static const char *key_of(gconstpointer entry)
{
    return ((const DiskEntry *)entry)->name;
}

/* Names of exports by disk, in one pass over all of them. */
static GHashTable *exports_by_disk(Registry *registry)
{
    GHashTable *table =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)g_ptr_array_unref);
    g_autoptr(GPtrArray) exports = registry_list_exports(registry);
    for (guint i = 0; i < exports->len; i++) {
        const ExportConfig *config = ((Export *)exports->pdata[i])->config;
        GPtrArray *names = g_hash_table_lookup(table, config->disk);
        if (!names) {
            names = g_ptr_array_new();
            g_hash_table_insert(table, config->disk, names);
        }
        g_ptr_array_add(names, config->name);
    }
    return table;
}

bool method_disk_list(Call *call, const DiskListParams *params, DiskListResult *result,
                      GError **error)
{
    Registry *registry = call_registry(call);
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)disk_object_free);
    registry_lock(registry);
    g_autoptr(GPtrArray) entries = registry_list_disks(registry);
    g_autoptr(GHashTable) exports = exports_by_disk(registry);
    guint end, begin = page_begin(entries, params->cursor, params->limit, key_of, &end);
    for (guint i = begin; i < end; i++) {
        const DiskEntry *entry = entries->pdata[i];
        const GPtrArray *names = g_hash_table_lookup(exports, entry->name);
        DiskObject *object = g_new0(DiskObject, 1);
        render(entry, names ? strings_of(names) : g_new0(char *, 1), live_bitmaps(entry), object);
        g_ptr_array_add(disks, object);
    }
    result->disks = disks;
    result->next_cursor = page_next(entries, begin, end, key_of);
    registry_unlock(registry);
    return true;
}

bool action_disk_add(Txn *txn, const DiskAddParams *params, GError **error)
{
    CacheMode cache = core_cache(params->cache);
    const DiskEntry *entry = txn_find_disk(txn, params->name);
    if (entry && params->if_exists == API_IF_EXISTS_SAME) {
        if (g_str_equal(entry->path, params->path) && entry->read_only == params->read_only &&
            entry->cache == cache)
            return true;
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                      "there is a disk '%s' with another path or other settings", params->name);
        return false;
    }
    return txn_add_disk(txn, params->name, params->path, params->read_only, cache, false, error);
}

static void show_staged(Txn *txn, DiskEntry *entry, DiskObject *object)
{
    g_autoptr(GPtrArray) exports = txn_list_exports_of(txn, entry->name);
    g_autoptr(GPtrArray) bitmaps = txn_list_bitmaps_of(txn, entry);
    registry_lock(txn_registry(txn));
    render(entry, strings_of(exports), strings_of(bitmaps), object);
    registry_unlock(txn_registry(txn));
}

bool describe_disk_add(Txn *txn, Registry *registry, const DiskAddParams *params,
                       DiskAddResult *result, GError **error)
{
    if (!txn)
        return show_live(registry, params->name, result, error);
    DiskEntry *entry = txn_find_disk(txn, params->name);
    if (entry)
        show_staged(txn, entry, result);
    return entry != NULL;
}

bool action_disk_remove(Txn *txn, const DiskRemoveParams *params, GError **error)
{
    if (params->missing_ok && !txn_find_disk(txn, params->name))
        return true;
    return txn_remove_disk(txn, params->name, params->force, error);
}

bool describe_disk_remove(Txn *txn, Registry *registry, const DiskRemoveParams *params,
                          DiskRemoveResult *result, GError **error)
{
    result->name = g_strdup(params->name);
    result->removed = txn_has_removed_disk(txn, params->name);
    return true;
}

bool method_disk_refresh(Call *call, const DiskRefreshParams *params, DiskRefreshResult *result,
                         GError **error)
{
    Registry *registry = call_registry(call);
    return disk_entry_refresh(registry, params->name, params->dry_run, error) &&
           show_live(registry, params->name, result, error);
}
