/* What a transaction does to disks. */
#include "daemon/core/disk_open.h"
#include "daemon/core/txn_state.h"

StagedDisk *txn_stage_disk(Txn *txn, const char *name)
{
    StagedDisk *staged = g_tree_lookup(txn->disks, name);
    if (staged)
        return staged;
    registry_lock(txn->registry);
    DiskEntry *entry = registry_find_disk(txn->registry, name);
    if (entry) {
        staged = g_new0(StagedDisk, 1);
        staged->before = disk_entry_ref(entry);
        staged->after = disk_entry_ref(entry);
    }
    registry_unlock(txn->registry);
    if (staged)
        g_tree_insert(txn->disks, g_strdup(name), staged);
    return staged;
}

DiskEntry *txn_find_disk(Txn *txn, const char *name)
{
    StagedDisk *staged = txn_stage_disk(txn, name);
    return staged ? staged->after : NULL;
}

typedef struct {
    const BackendIdentity *identity;
    DiskEntry *found;
} IdentitySearch;

static gboolean search_identity(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    IdentitySearch *search = data;
    if (staged->after && staged->after->identified &&
        backend_identity_equal(&staged->after->identity, search->identity))
        search->found = staged->after;
    return search->found != NULL;
}

static bool check_not_own(const Txn *txn, const char *path, const BackendIdentity *identity,
                          GError **error)
{
    g_autofree char *problem =
        disk_own_state_problem(txn->registry->facts.state_dir, path, identity);
    if (problem)
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/path", "%s", problem);
    return !problem;
}

/* One inode or device is one disk. A disk that this transaction removes still holds its file until
 * the commit, so it counts too. */
static bool check_identity(Txn *txn, const char *path, const BackendIdentity *identity,
                           GError **error)
{
    IdentitySearch search = {.identity = identity};
    g_autofree char *holder = NULL;
    registry_lock(txn->registry);
    DiskEntry *entry = registry_find_identity(txn->registry, identity);
    if (!entry) {
        g_tree_foreach(txn->disks, search_identity, &search);
        entry = search.found;
    }
    holder = entry ? g_strdup(entry->name) : NULL;
    registry_unlock(txn->registry);
    if (!holder)
        return true;
    api_error_set(error, ERROR_ALREADY_EXISTS, "/params/path",
                  "%s is the file of disk '%s' already: export that disk", path, holder);
    return false;
}

static gboolean count_added(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    *(int *)data += (staged->after != NULL) - (staged->before != NULL);
    return FALSE;
}

static bool check_room(Txn *txn, GError **error)
{
    int added = 0;
    g_tree_foreach(txn->disks, count_added, &added);
    registry_lock(txn->registry);
    uint64_t count = g_hash_table_size(txn->registry->disks) + (uint64_t)added;
    registry_unlock(txn->registry);
    if (count < txn->registry->limits.disks)
        return true;
    api_error_set(error, ERROR_LIMIT, NULL,
                  "there are %" G_GUINT64_FORMAT " disks, the most there may be (--max-disks)",
                  count);
    return false;
}

/* Nobody else opens this file meanwhile under another name. */
static bool claim_file(Txn *txn, const BackendIdentity *identity, GError **error)
{
    g_autofree char *key = g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT,
                                           identity->device, identity->inode);
    GError *local = NULL;
    if (txn_claim(txn, CLAIM_FILE, key, &local))
        return true;
    g_error_free(local);
    api_error_set(error, ERROR_BUSY, "/params/path", "another request is opening this file");
    return false;
}

bool txn_add_disk(Txn *txn, const char *name, const char *path, bool read_only, CacheMode cache,
                  bool implicit, GError **error)
{
    if (!txn_claim(txn, CLAIM_DISK, name, error))
        return false;
    StagedDisk *staged = txn_stage_disk(txn, name);
    if (staged && staged->after) {
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name", "there is a disk '%s' already",
                      name);
        return false;
    }
    if (!g_path_is_absolute(path)) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/path",
                      "the path must be absolute, not \"%s\"", path);
        return false;
    }
    GError *local = NULL;
    BackendIdentity identity;
    gint64 deadline = MAX(txn->deadline, g_get_monotonic_time() + TXN_CALL_LEAST);
    if (!check_room(txn, error))
        return false;
    if (!disk_identify(path, deadline, &identity, &local)) {
        api_error_propagate(error, local, "/params/path");
        return false;
    }
    if (!check_not_own(txn, path, &identity, error) || !claim_file(txn, &identity, error) ||
        !check_identity(txn, path, &identity, error))
        return false;

    g_autoptr(DiskEntry) entry = disk_entry_new(name, path, read_only, cache, implicit);
    entry->disk = disk_open_until(txn->registry->store, entry, &identity, true, deadline, &local);
    if (!entry->disk) {
        api_error_propagate(error, local, "/params/path");
        return false;
    }
    entry->identity = identity;
    entry->identified = true;
    entry->state = DISK_READY;
    if (!staged) {
        staged = g_new0(StagedDisk, 1);
        g_tree_insert(txn->disks, g_strdup(name), staged);
    }
    staged->after = g_steal_pointer(&entry);
    return true;
}

static bool add_name(ExportConfig *config, gpointer data)
{
    gpointer *pair = data;
    if (g_str_equal(config->disk, pair[0]))
        g_ptr_array_add(pair[1], g_strdup(config->name));
    return true;
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

GPtrArray *txn_list_exports_of(Txn *txn, const char *disk)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    gpointer pair[] = {(gpointer)disk, names};
    txn_visit_exports(txn, add_name, pair);
    g_ptr_array_sort(names, compare_names);
    return names;
}

/* The open disk of an entry, which stays once it is there; NULL while it is missing. */
static Disk *open_disk_of(Txn *txn, DiskEntry *entry)
{
    registry_lock(txn->registry);
    Disk *disk = entry->disk;
    registry_unlock(txn->registry);
    return disk;
}

GPtrArray *txn_list_bitmaps_of(Txn *txn, DiskEntry *entry)
{
    DiskChange *change = txn_peek_change(txn, entry->name);
    if (change)
        return disk_change_preview_names(change);
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    Disk *disk = open_disk_of(txn, entry);
    g_autoptr(GPtrArray) bitmaps = disk ? disk_list_bitmaps(disk) : NULL;
    for (guint i = 0; bitmaps && i < bitmaps->len; i++)
        g_ptr_array_add(names, g_strdup(bitmap_name(bitmaps->pdata[i])));
    return names;
}

bool txn_check_stragglers(Txn *txn, const DiskEntry *entry, bool writers, const char *path,
                          GError **error)
{
    uint64_t id = 0;
    registry_lock(txn->registry);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, txn->registry->clients);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const Client *client = value;
        const Export *export = client->export;
        if (export && export->disk == entry && (!writers || (export->gone && !client->read_only)))
            id = client->id;
    }
    registry_unlock(txn->registry);
    if (id == 0)
        return true;
    api_error_set(error, ERROR_BUSY, path,
                  "client %" G_GUINT64_FORMAT " of a removed export still has requests in flight "
                  "on disk '%s'%s",
                  id, entry->name, writers ? ", which may write" : "");
    return false;
}

bool txn_remove_disk(Txn *txn, const char *name, bool force, GError **error)
{
    if (!txn_claim(txn, CLAIM_DISK, name, error))
        return false;
    StagedDisk *staged = txn_stage_disk(txn, name);
    if (!staged || !staged->after) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no disk '%s'", name);
        return false;
    }
    DiskEntry *entry = staged->after;
    g_autoptr(GPtrArray) exports = txn_list_exports_of(txn, name);
    if (exports->len > 0) {
        api_error_set(error, ERROR_BUSY, "/params/name",
                      "disk '%s' has exports ('%s'%s): remove them first", name,
                      (char *)exports->pdata[0], exports->len > 1 ? " and others" : "");
        return false;
    }
    if (!force && !open_disk_of(txn, entry)) {
        api_error_set(error, ERROR_INVALID_STATE, "/params/force",
                      "disk '%s' is not open, so it is not known whether it has bitmaps: give "
                      "`force` to drop them with it",
                      name);
        return false;
    }
    g_autoptr(GPtrArray) bitmaps = txn_list_bitmaps_of(txn, entry);
    if (!force && bitmaps->len > 0) {
        api_error_set(error, ERROR_INVALID_STATE, "/params/force",
                      "disk '%s' has bitmaps ('%s'%s): give `force` to drop them with it", name,
                      (char *)bitmaps->pdata[0], bitmaps->len > 1 ? " and others" : "");
        return false;
    }
    if (!txn_check_stragglers(txn, entry, false, "/params/name", error))
        return false;
    if (staged->change)
        disk_change_finish(g_steal_pointer(&staged->change), false);
    for (guint i = 0; i < bitmaps->len; i++)
        txn_note_bitmap(txn, "removed", name, bitmaps->pdata[i]);
    g_clear_pointer(&staged->after, disk_entry_unref);
    return true;
}

DiskChange *txn_change_disk(Txn *txn, const char *name, const char *path, GError **error)
{
    if (!txn_claim(txn, CLAIM_DISK, name, error))
        return NULL;
    StagedDisk *staged = txn_stage_disk(txn, name);
    if (!staged || !staged->after) {
        api_error_set(error, ERROR_NOT_FOUND, path, "there is no disk '%s'", name);
        return NULL;
    }
    if (staged->change)
        return staged->change;
    Disk *disk = open_disk_of(txn, staged->after);
    if (!disk) {
        api_error_set(error, ERROR_INVALID_STATE, path,
                      "disk '%s' is not open: see `disk show`, and `disk refresh` when its file "
                      "is there again",
                      name);
        return NULL;
    }
    GError *local = NULL;
    staged->change = disk_change_begin(disk, txn->deadline, &local);
    if (!staged->change)
        api_error_propagate(error, local, path);
    return staged->change;
}

DiskChange *txn_peek_change(Txn *txn, const char *name)
{
    StagedDisk *staged = g_tree_lookup(txn->disks, name);
    return staged ? staged->change : NULL;
}

void txn_note_bitmap(Txn *txn, const char *event, const char *disk, const char *bitmap)
{
    BitmapNote note = {.event = event, .disk = g_strdup(disk), .bitmap = g_strdup(bitmap)};
    g_array_append_val(txn->bitmap_events, note);
}

bool txn_has_removed_disk(Txn *txn, const char *name)
{
    StagedDisk *staged = g_tree_lookup(txn->disks, name);
    return staged && !staged->after;
}

bool txn_has_removed_bitmap(Txn *txn, const char *disk, const char *name)
{
    for (guint i = 0; i < txn->bitmap_events->len; i++) {
        const BitmapNote *note = &g_array_index(txn->bitmap_events, BitmapNote, i);
        if (g_str_equal(note->event, "removed") && g_str_equal(note->disk, disk) &&
            g_str_equal(note->bitmap, name))
            return true;
    }
    return false;
}
