/* What a transaction does to exports, and the rules that their settings keep. */
#include "daemon/core/txn_state.h"

StagedExport *txn_stage_export(Txn *txn, const char *name)
{
    StagedExport *staged = g_tree_lookup(txn->exports, name);
    if (staged)
        return staged;
    registry_lock(txn->registry);
    Export *export = registry_find_export(txn->registry, name);
    if (export) {
        staged = g_new0(StagedExport, 1);
        staged->before = export_ref(export);
        staged->after = export_config_ref(export->config);
    }
    registry_unlock(txn->registry);
    if (staged)
        g_tree_insert(txn->exports, g_strdup(name), staged);
    return staged;
}

ExportConfig *txn_find_export(Txn *txn, const char *name)
{
    StagedExport *staged = txn_stage_export(txn, name);
    return staged ? staged->after : NULL;
}

typedef struct {
    GPtrArray *configs;
} StagedList;

static gboolean add_staged(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    if (staged->after)
        g_ptr_array_add(((StagedList *)data)->configs, export_config_ref(staged->after));
    return FALSE;
}

void txn_visit_exports(Txn *txn, ExportVisitor function, gpointer data)
{
    g_autoptr(GPtrArray) configs =
        g_ptr_array_new_with_free_func((GDestroyNotify)export_config_unref);
    registry_lock(txn->registry);
    GHashTableIter iter;
    gpointer name, value;
    g_hash_table_iter_init(&iter, txn->registry->exports);
    while (g_hash_table_iter_next(&iter, &name, &value)) {
        if (!g_tree_lookup(txn->exports, name))
            g_ptr_array_add(configs, export_config_ref(((Export *)value)->config));
    }
    registry_unlock(txn->registry);
    StagedList list = {configs};
    g_tree_foreach(txn->exports, add_staged, &list);
    for (guint i = 0; i < configs->len; i++) {
        if (!function(configs->pdata[i], data))
            break;
    }
}

/* Whether clients write through an export whatever its setting says now: they were admitted under
 * an earlier one and stay. */
static bool has_writers(Txn *txn, const char *name)
{
    StagedExport *staged = g_tree_lookup(txn->exports, name);
    if (staged && staged->evict)
        return false;
    registry_lock(txn->registry);
    Export *export = registry_find_export(txn->registry, name);
    bool writers = export && export->writers > 0;
    registry_unlock(txn->registry);
    return writers;
}

typedef struct {
    Txn *txn;
    const ExportConfig *config;
    char *conflict;
    bool connected;
} WriterCheck;

static bool find_conflict(ExportConfig *other, gpointer data)
{
    WriterCheck *check = data;
    const ExportConfig *config = check->config;
    if (g_str_equal(other->name, config->name) || !g_str_equal(other->disk, config->disk))
        return true;
    bool both_shared = config->sharing == SHARING_SHARED && other->sharing == SHARING_SHARED;
    if (both_shared)
        return true;
    check->connected = other->read_only && has_writers(check->txn, other->name);
    if (other->read_only && !check->connected)
        return true;
    check->conflict = g_strdup(other->name);
    return false;
}

/* At most one export of a disk is writable, unless all writable ones are `shared`. */
static bool check_writable(Txn *txn, const ExportConfig *config, GError **error)
{
    if (config->read_only)
        return true;
    WriterCheck check = {.txn = txn, .config = config};
    txn_visit_exports(txn, find_conflict, &check);
    if (!check.conflict)
        return true;
    if (check.connected)
        api_error_set(error, ERROR_INVALID_STATE, "/params/read_only",
                      "export '%s' of disk '%s' still has a client that writes: evict it first",
                      check.conflict, config->disk);
    else
        api_error_set(error, ERROR_INVALID_STATE, "/params/read_only",
                      "export '%s' of disk '%s' is writable already: one of the two must be "
                      "read-only, or both `shared`",
                      check.conflict, config->disk);
    g_free(check.conflict);
    return false;
}

static bool check_bitmaps(Txn *txn, const ExportConfig *config, DiskEntry *entry, GError **error)
{
    g_autoptr(GPtrArray) names = txn_list_bitmaps_of(txn, entry);
    for (guint i = 0; config->bitmaps && config->bitmaps[i]; i++) {
        if (g_ptr_array_find_with_equal_func(names, config->bitmaps[i], g_str_equal, NULL))
            continue;
        g_autofree char *path = g_strdup_printf("/params/bitmaps/%u", i);
        api_error_set(error, ERROR_NOT_FOUND, path, "disk '%s' has no bitmap '%s'", config->disk,
                      config->bitmaps[i]);
        return false;
    }
    return true;
}

static bool check_rules(Txn *txn, const ExportConfig *config, const ExportConfig *before,
                        GError **error)
{
    DiskEntry *entry = txn_find_disk(txn, config->disk);
    if (!entry) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/disk", "there is no disk '%s'",
                      config->disk);
        return false;
    }
    if (entry->read_only && !config->read_only) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/read_only",
                      "disk '%s' is read-only, so an export of it must be too", config->disk);
        return false;
    }
    if (config->on_busy != EXPORT_ON_BUSY_REFUSE && config->sharing != SHARING_EXCLUSIVE) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/on_busy",
                      "only an exclusive export can be waited for or taken over: with another "
                      "sharing mode `on_busy` is refuse");
        return false;
    }
    /* What has not been changed was right when it was: a bitmap that the export names may be gone
     * since. */
    bool same_bitmaps =
        before && before->bitmaps && config->bitmaps &&
        g_strv_equal((const char *const *)before->bitmaps, (const char *const *)config->bitmaps);
    if (!same_bitmaps && !check_bitmaps(txn, config, entry, error))
        return false;
    /* Who begins to write must not find it overwritten by what others had asked for before. */
    bool begins_to_write = !config->read_only && (!before || before->read_only);
    return check_writable(txn, config, error) &&
           (!begins_to_write || txn_check_stragglers(txn, entry, true, "/params/read_only", error));
}

static gboolean count_added(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    *(int *)data += (staged->after != NULL) - (staged->before != NULL);
    return FALSE;
}

static bool check_room(Txn *txn, GError **error)
{
    int added = 0;
    g_tree_foreach(txn->exports, count_added, &added);
    registry_lock(txn->registry);
    uint64_t count = g_hash_table_size(txn->registry->exports) + (uint64_t)added;
    registry_unlock(txn->registry);
    if (count < txn->registry->limits.exports)
        return true;
    api_error_set(error, ERROR_LIMIT, NULL,
                  "there are %" G_GUINT64_FORMAT " exports, the most there may be (--max-exports)",
                  count);
    return false;
}

bool txn_add_export(Txn *txn, ExportConfig *config, GError **error)
{
    if (!txn_claim(txn, CLAIM_DISK, config->disk, error) ||
        !txn_claim(txn, CLAIM_EXPORT, config->name, error))
        return false;
    StagedExport *staged = txn_stage_export(txn, config->name);
    if (staged && staged->after) {
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                      "there is an export '%s' already", config->name);
        return false;
    }
    if (!check_room(txn, error) || !check_rules(txn, config, NULL, error))
        return false;
    if (!staged) {
        staged = g_new0(StagedExport, 1);
        g_tree_insert(txn->exports, g_strdup(config->name), staged);
    }
    staged->after = export_config_ref(config);
    return true;
}

/* The staged export, claimed with its disk, and not one that is on its way out. */
static StagedExport *stage_existing(Txn *txn, const char *name, RemoveHow how, GError **error)
{
    registry_lock(txn->registry);
    Export *live = registry_find_export(txn->registry, name);
    g_autofree char *disk = live ? g_strdup(live->config->disk) : NULL;
    registry_unlock(txn->registry);
    if ((disk && !txn_claim(txn, CLAIM_DISK, disk, error)) ||
        !txn_claim(txn, CLAIM_EXPORT, name, error))
        return NULL;

    StagedExport *staged = txn_stage_export(txn, name);
    if (!staged || !staged->after) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no export '%s'", name);
        return NULL;
    }
    /* Between the look and the claims another request may have put it on another disk. */
    if (!txn_claim(txn, CLAIM_DISK, staged->after->disk, error))
        return NULL;
    registry_lock(txn->registry);
    bool leaving = staged->before && staged->before->removing;
    registry_unlock(txn->registry);
    if (leaving && how == REMOVE_SAFE) {
        api_error_set(error, ERROR_BUSY, "/params/name", "export '%s' is being removed", name);
        return NULL;
    }
    return staged;
}

bool txn_set_export(Txn *txn, ExportConfig *config, bool evict, GError **error)
{
    StagedExport *staged = stage_existing(txn, config->name, REMOVE_SAFE, error);
    if (!staged)
        return false;
    bool evicted_before = staged->evict;
    staged->evict |= evict;
    if (!check_rules(txn, config, staged->after, error)) {
        staged->evict = evicted_before;
        return false;
    }
    export_config_ref(config);
    export_config_unref(staged->after);
    staged->after = config;
    return true;
}

static bool check_no_clients(Txn *txn, const StagedExport *staged, GError **error)
{
    GString *text = g_string_new(NULL);
    registry_lock(txn->registry);
    guint count = staged->before ? staged->before->clients->len : 0;
    for (guint i = 0; i < count && i < 8; i++) {
        const Client *client = staged->before->clients->pdata[i];
        g_string_append_printf(text, "%s%" G_GUINT64_FORMAT " (%s)", i ? ", " : "", client->id,
                               client->address);
    }
    registry_unlock(txn->registry);
    if (count > 0)
        api_error_set(error, ERROR_BUSY, "/params/name",
                      "%u client%s connected to export '%s': %s%s; the modes `drain` and `hard` "
                      "end them",
                      count, count > 1 ? "s are" : " is", staged->after->name, text->str,
                      count > 8 ? ", ..." : "");
    g_string_free(text, TRUE);
    return count == 0;
}

bool txn_remove_export(Txn *txn, const char *name, RemoveHow how, GError **error)
{
    StagedExport *staged = stage_existing(txn, name, how, error);
    if (!staged)
        return false;
    if (how == REMOVE_SAFE && !staged->replaced && !check_no_clients(txn, staged, error))
        return false;
    g_autofree char *disk = g_strdup(staged->after->disk);
    g_clear_pointer(&staged->after, export_config_unref);
    staged->forced |= how == REMOVE_FORCED;
    staged->replaced = true;
    staged->evict = false;

    DiskEntry *entry = txn_find_disk(txn, disk);
    if (!entry || !entry->implicit)
        return true;
    g_autoptr(GPtrArray) exports = txn_list_exports_of(txn, disk);
    g_autoptr(GPtrArray) bitmaps = txn_list_bitmaps_of(txn, entry);
    if (exports->len > 0 || bitmaps->len > 0)
        return true;
    /* A missing file does not say whether it has bitmaps: its disk stays. */
    StagedDisk *staged_disk = txn_stage_disk(txn, disk);
    registry_lock(txn->registry);
    bool open = entry->disk != NULL;
    registry_unlock(txn->registry);
    if (open) {
        if (staged_disk->change)
            disk_change_finish(g_steal_pointer(&staged_disk->change), false);
        g_clear_pointer(&staged_disk->after, disk_entry_unref);
    }
    return true;
}

bool txn_has_removed_export(Txn *txn, const char *name)
{
    StagedExport *staged = g_tree_lookup(txn->exports, name);
    return staged && !staged->after;
}
