/* The commit of a transaction: check what may have changed, close the gates, store, publish, open.
 * Up to the answer of the store everything can be taken back; after it nothing fails. */
#include "daemon/core/client_groups.h"
#include "daemon/core/evict.h"
#include "daemon/core/expiry.h"
#include "daemon/core/rows.h"
#include "daemon/core/txn_state.h"

/* How long evicted clients may finish what is in flight, and how long we wait for them at all. */
#define EVICT_DRAIN (2 * G_USEC_PER_SEC)
#define EVICT_GONE  (4 * G_USEC_PER_SEC)

/* --- clients may have come since the actions were checked --- */

static gboolean mark_leaving(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    GError **error = data;
    if (!staged->before || !staged->replaced)
        return FALSE;
    if (!staged->forced && staged->before->clients->len > 0) {
        api_error_set(error, ERROR_BUSY, NULL, "a client has connected to export '%s'",
                      (const char *)name);
        return TRUE;
    }
    if (!staged->before->removing)
        staged->before->removing = staged->marked = true;
    return FALSE;
}

static gboolean unmark_leaving(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    if (staged->marked)
        staged->before->removing = staged->marked = false;
    return FALSE;
}

static bool close_doors(Txn *txn, GError **error)
{
    GError *local = NULL;
    registry_lock(txn->registry);
    if (txn->registry->stopping)
        api_error_set(&local, ERROR_INVALID_STATE, NULL, "the daemon is stopping");
    else
        g_tree_foreach(txn->exports, mark_leaving, &local);
    registry_unlock(txn->registry);
    if (!local)
        return true;
    g_propagate_error(error, local);
    return false;
}

/* --- lists that want groups --- */

typedef struct {
    Registry *registry;
    gint64 deadline;
} LookingUp;

static gboolean look_up_groups(gpointer name, gpointer value, gpointer data)
{
    const StagedExport *staged = value;
    const LookingUp *looking_up = data;
    if (staged->before && staged->after && !staged->replaced && staged->after->allow &&
        allow_list_wants_groups(staged->after->allow))
        export_look_up_groups(looking_up->registry, staged->before, staged->evict,
                              looking_up->deadline);
    return FALSE;
}

/* --- the store --- */

typedef struct {
    StoreTxn *txn;
    GError **error;
    bool failed;
} Storing;

static gboolean delete_export(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    Storing *storing = data;
    if (staged->before && !staged->after)
        storing->failed = !store_del_export(storing->txn, name, storing->error);
    return storing->failed;
}

static gboolean store_disk(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    Storing *storing = data;
    bool good = true;
    if (staged->before && staged->before != staged->after)
        good = store_del_disk(storing->txn, name, storing->error);
    if (good && staged->after && staged->before != staged->after)
        good = disk_entry_put(storing->txn, staged->after, storing->error);
    if (good && staged->change)
        good = disk_change_store(staged->change, storing->txn, storing->error);
    storing->failed = !good;
    return storing->failed;
}

static gboolean store_export(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    Storing *storing = data;
    if (staged->after && !(staged->before && staged->before->config == staged->after))
        storing->failed = !export_config_put(storing->txn, staged->after, storing->error);
    return storing->failed;
}

/* On the store's thread. Exports refer to disks, so they go first and come last. */
static bool store_all(StoreTxn *store_txn, gpointer data, GError **error)
{
    Txn *txn = data;
    Storing storing = {.txn = store_txn, .error = error};
    g_tree_foreach(txn->exports, delete_export, &storing);
    if (!storing.failed)
        g_tree_foreach(txn->disks, store_disk, &storing);
    if (!storing.failed)
        g_tree_foreach(txn->exports, store_export, &storing);
    return !storing.failed;
}

/* --- publishing --- */

typedef struct {
    Txn *txn;
    GPtrArray *evicted;
} Publishing;

static gboolean publish_disk(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    Txn *txn = ((Publishing *)data)->txn;
    Registry *registry = txn->registry;
    if (staged->before == staged->after)
        return FALSE;
    /* The staged entry keeps its reference, so nothing closes under the lock. */
    if (staged->before) {
        g_hash_table_remove(registry->disks, name);
        events_post(registry->events, TOPIC_DISK, "removed", name, NULL, NULL);
    }
    if (staged->after) {
        DiskEntry *entry = disk_entry_ref(staged->after);
        g_hash_table_replace(registry->disks, entry->name, entry);
        events_post(registry->events, TOPIC_DISK, "added", name, NULL, NULL);
    }
    return FALSE;
}

static void remove_export(Registry *registry, Export *export)
{
    export->removing = export->gone = true;
    export_dismiss_waiters(export);
    registry_drop_export(registry, export);
    events_post(registry->events, TOPIC_EXPORT, "removed", export->config->name,
                export->config->disk, NULL);
}

static void add_export(Registry *registry, ExportConfig *config)
{
    registry_put_export(registry, export_new(config, registry_find_disk(registry, config->disk)));
    events_post(registry->events, TOPIC_EXPORT, "added", config->name, config->disk, NULL);
}

/* Answers whether anything differs; the old settings end up in the staged entry. */
static bool change_export(Registry *registry, StagedExport *staged)
{
    Export *export = staged->before;
    if (export->config == staged->after)
        return false;
    bool changed = !export_config_equal(export->config, staged->after);
    ExportConfig *old = export->config;
    export->config = export_config_ref(staged->after);
    throttle_set(export->throttle, &staged->after->qos);
    registry_rekey_export(registry, export, old); /* the key is the old settings' name */
    export_config_unref(old);
    export_wake_all(export);
    if (changed)
        events_post(registry->events, TOPIC_EXPORT, "changed", export->config->name,
                    export->config->disk, NULL);
    return changed;
}

static gboolean publish_export(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    Publishing *publishing = data;
    Registry *registry = publishing->txn->registry;
    if (staged->after && staged->after->allow && allow_list_wants_groups(staged->after->allow))
        registry->groups_wanted = true;
    if (staged->after)
        expiry_note(registry, staged->after->allow);
    if (staged->before && staged->replaced)
        remove_export(registry, staged->before);
    if (staged->after && (!staged->before || staged->replaced))
        add_export(registry, staged->after);
    else if (staged->after)
        change_export(registry, staged);
    if (staged->before && staged->after && !staged->replaced && staged->evict) {
        GPtrArray *clients = export_find_unadmitted(staged->before);
        g_ptr_array_extend_and_steal(publishing->evicted, clients);
    }
    return FALSE;
}

static GPtrArray *publish(Txn *txn)
{
    Registry *registry = txn->registry;
    Publishing publishing = {
        .txn = txn, .evicted = g_ptr_array_new_with_free_func((GDestroyNotify)client_unref)};
    registry_lock(registry);
    g_tree_foreach(txn->disks, publish_disk, &publishing);
    g_tree_foreach(txn->exports, publish_export, &publishing);
    for (guint i = 0; i < txn->bitmap_events->len; i++) {
        BitmapNote *note = &g_array_index(txn->bitmap_events, BitmapNote, i);
        events_post(registry->events, TOPIC_BITMAP, note->event, note->bitmap, note->disk, NULL);
    }
    registry_unlock(registry);
    return publishing.evicted;
}

/* --- all of it --- */

static gboolean collect_change(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    if (staged->change)
        g_ptr_array_add(data, staged->change);
    return FALSE;
}

static gboolean finish_change(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    if (staged->change)
        disk_change_finish(g_steal_pointer(&staged->change), *(bool *)data);
    return FALSE;
}

static gboolean differs(gpointer name, gpointer value, gpointer data)
{
    StagedDisk *staged = value;
    return *(bool *)data = staged->change || staged->before != staged->after;
}

static gboolean export_differs(gpointer name, gpointer value, gpointer data)
{
    StagedExport *staged = value;
    return *(bool *)data = staged->replaced || staged->evict ||
                           !(staged->before && staged->before->config == staged->after);
}

static bool changes_anything(Txn *txn)
{
    bool answer = false;
    g_tree_foreach(txn->disks, differs, &answer);
    if (!answer)
        g_tree_foreach(txn->exports, export_differs, &answer);
    return answer;
}

/* Open ones see to it themselves when they are closed. */
static gboolean forget_disk(gpointer name, gpointer value, gpointer registry)
{
    StagedDisk *staged = value;
    if (staged->before && !staged->after && !staged->before->disk)
        disk_forget(((Registry *)registry)->store, name);
    return FALSE;
}

bool txn_commit(Txn *txn, GError **error)
{
    if (!changes_anything(txn)) {
        txn_free(txn);
        return true;
    }
    GError *local = NULL;
    /* With the doors open: half of the time there is may pass, and the rest is for the disks. */
    gint64 now = g_get_monotonic_time();
    LookingUp looking_up = {txn->registry, now + MAX((txn->deadline - now) / 2, TXN_CALL_LEAST)};
    g_tree_foreach(txn->exports, look_up_groups, &looking_up);

    g_autoptr(GPtrArray) changes = g_ptr_array_new();
    g_tree_foreach(txn->disks, collect_change, changes);

    bool committed =
        close_doors(txn, &local) &&
        (changes->len == 0 || disk_change_freeze((DiskChange *const *)changes->pdata, changes->len,
                                                 txn->deadline, &local)) &&
        store_transact(txn->registry->store, store_all, txn, &local);

    /* The bitmaps first: whoever finds a new export finds the bitmaps that came with it. */
    g_tree_foreach(txn->disks, finish_change, &committed);
    if (!committed) {
        registry_lock(txn->registry);
        g_tree_foreach(txn->exports, unmark_leaving, NULL);
        registry_unlock(txn->registry);
    } else {
        g_autoptr(GPtrArray) evicted = publish(txn);
        g_tree_foreach(txn->disks, forget_disk, txn->registry);
        now = g_get_monotonic_time();
        clients_end(txn->registry, evicted, now + EVICT_DRAIN, now + EVICT_GONE);
    }
    txn_free(txn);
    if (!committed)
        api_error_propagate(error, local, NULL);
    return committed;
}
