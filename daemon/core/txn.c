#include "daemon/core/txn.h"
#include "daemon/core/txn_state.h"

static gint compare_keys(gconstpointer a, gconstpointer b, gpointer data)
{
    return strcmp(a, b);
}

static void staged_disk_free(gpointer data)
{
    StagedDisk *staged = data;
    if (staged->change)
        disk_change_finish(staged->change, false);
    disk_entry_unref(staged->before);
    disk_entry_unref(staged->after);
    g_free(staged);
}

static void staged_export_free(gpointer data)
{
    StagedExport *staged = data;
    export_unref(staged->before);
    export_config_unref(staged->after);
    g_free(staged);
}

static void bitmap_note_clear(gpointer data)
{
    BitmapNote *note = data;
    g_free(note->disk);
    g_free(note->bitmap);
}

Txn *txn_begin(Registry *registry, gint64 deadline)
{
    Txn *txn = g_new0(Txn, 1);
    txn->registry = registry;
    txn->deadline = deadline;
    txn->claims = g_ptr_array_new_with_free_func(g_free);
    txn->disks = g_tree_new_full(compare_keys, NULL, g_free, staged_disk_free);
    txn->exports = g_tree_new_full(compare_keys, NULL, g_free, staged_export_free);
    txn->bitmap_events = g_array_new(FALSE, FALSE, sizeof(BitmapNote));
    g_array_set_clear_func(txn->bitmap_events, bitmap_note_clear);
    return txn;
}

Registry *txn_registry(Txn *txn)
{
    return txn->registry;
}

/* Disks that only this transaction holds close here, before their names are free again. */
void txn_free(Txn *txn)
{
    g_tree_unref(txn->exports);
    g_tree_unref(txn->disks);
    g_array_unref(txn->bitmap_events);
    txn_release_claims(txn);
    g_ptr_array_unref(txn->claims);
    g_free(txn);
}

void txn_abort(Txn *txn)
{
    if (txn)
        txn_free(txn);
}

/* The value of a parameter that is a string, NULL when there is none of that name. */
static const char *string_parameter(const ApiAction *action, const char *name)
{
    const ApiStruct *params = action->method->params;
    for (size_t i = 0; i < params->count; i++) {
        const ApiField *field = &params->fields[i];
        if (field->kind == API_STRING && !(field->flags & API_LIST) &&
            g_str_equal(field->name, name))
            return *(char *const *)(gconstpointer)((const char *)action->params + field->offset);
    }
    return NULL;
}

static void add_claim(GTree *names, const char *name)
{
    if (name)
        g_tree_insert(names, g_strdup(name), NULL);
}

/* What an action touches follows from its noun and its parameters' names. */
static void collect_claims(Registry *registry, const ApiAction *action, GTree *disks,
                           GTree *exports)
{
    const char *method = action->method->name, *name = string_parameter(action, "name");
    if (g_str_has_prefix(method, "disk.")) {
        add_claim(disks, name);
        return;
    }
    add_claim(disks, string_parameter(action, "disk"));
    if (!g_str_has_prefix(method, "export.") || !name)
        return;
    add_claim(exports, name);
    if (string_parameter(action, "path"))
        add_claim(disks, name);
    registry_lock(registry);
    Export *export = registry_find_export(registry, name);
    if (export)
        add_claim(disks, export->config->disk);
    registry_unlock(registry);
}

typedef struct {
    Txn *txn;
    ClaimKind kind;
    GError *error;
} Claiming;

static gboolean claim_name(gpointer name, gpointer value, gpointer data)
{
    Claiming *claiming = data;
    return !txn_claim(claiming->txn, claiming->kind, name, &claiming->error);
}

static bool claim_all(Txn *txn, ApiAction *const *actions, size_t count, GError **error)
{
    GTree *disks = g_tree_new_full(compare_keys, NULL, g_free, NULL);
    GTree *exports = g_tree_new_full(compare_keys, NULL, g_free, NULL);
    for (size_t i = 0; i < count; i++)
        collect_claims(txn->registry, actions[i], disks, exports);
    Claiming claiming = {.txn = txn, .kind = CLAIM_DISK};
    g_tree_foreach(disks, claim_name, &claiming);
    if (!claiming.error) {
        claiming.kind = CLAIM_EXPORT;
        g_tree_foreach(exports, claim_name, &claiming);
    }
    g_tree_unref(disks);
    g_tree_unref(exports);
    if (!claiming.error)
        return true;
    g_propagate_error(error, claiming.error);
    return false;
}

/* Describes an object again, as it is now: staged in full (txn) or committed (NULL). What cannot be
 * told any more, because a later action or another request has taken it away again, stays as it
 * was told before; so does what a removal did, whatever has the name by now. */
static void describe_again(Txn *txn, Registry *registry, const ApiAction *action)
{
    if (g_str_has_suffix(action->method->name, ".remove"))
        return;
    const ApiStruct *type = action->method->result;
    gpointer result = g_malloc0(type->size);
    if (action->method->describe(txn, registry, action->params, result, NULL)) {
        api_clear(type, action->result);
        memcpy(action->result, result, type->size);
    }
    g_free(result);
}

/* The action, and what it answers as things are right after it. */
static bool stage(Txn *txn, const ApiAction *action, GError **error)
{
    const ApiMethod *method = action->method;
    return method->action(txn, action->params, error) &&
           method->describe(txn, txn->registry, action->params, action->result, error);
}

bool txn_run(Registry *registry, ApiAction *const *actions, size_t count, gint64 deadline,
             bool dry_run, size_t *ret_failed, GError **error)
{
    Txn *txn = txn_begin(registry, deadline);
    *ret_failed = count;
    if (!claim_all(txn, actions, count, error)) {
        txn_abort(txn);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!stage(txn, actions[i], error)) {
            *ret_failed = i;
            txn_abort(txn);
            return false;
        }
    }
    for (size_t i = 0; i + 1 < count; i++)
        describe_again(txn, registry, actions[i]);
    if (dry_run) {
        txn_abort(txn);
        return true;
    }
    if (!txn_commit(txn, error))
        return false;
    for (size_t i = 0; i < count; i++)
        describe_again(NULL, registry, actions[i]);
    return true;
}
