/* Removing an export that has clients: export.remove with the modes drain and hard. */
#include "daemon/core/evict.h"
#include "daemon/core/txn_state.h"

/* What is left after a hard end: connections that are closing already. */
#define HARD_WAIT (2 * G_USEC_PER_SEC)
/* For the removal itself, once the clients are gone. */
#define COMMIT_WAIT (10 * G_USEC_PER_SEC)

/* Shuts the door: from now on this call alone decides about the export, so no claim is held while
 * clients drain. The answer is a reference. */
static Export *mark_removing(Registry *registry, const char *name, GError **error)
{
    Txn *txn = txn_begin(registry, g_get_monotonic_time() + COMMIT_WAIT);
    if (!txn_claim(txn, CLAIM_EXPORT, name, error)) {
        txn_abort(txn);
        return NULL;
    }
    bool leaving = false;
    registry_lock(registry);
    Export *export = registry_find_export(registry, name);
    if (export) {
        leaving = export->removing;
        export->removing = true;
        export_wake_all(export);
        export_ref(export);
    }
    registry_unlock(registry);
    txn_abort(txn);
    if (!export)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no export '%s'", name);
    if (leaving) {
        api_error_set(error, ERROR_BUSY, "/params/name", "export '%s' is being removed", name);
        g_clear_pointer(&export, export_unref);
    }
    return export;
}

static GPtrArray *ref_clients(Registry *registry, Export *export)
{
    GPtrArray *clients = g_ptr_array_new_with_free_func((GDestroyNotify)client_unref);
    registry_lock(registry);
    for (guint i = 0; i < export->clients->len; i++)
        g_ptr_array_add(clients, client_ref(export->clients->pdata[i]));
    registry_unlock(registry);
    return clients;
}

bool export_remove_ending(Registry *registry, const char *name, ClientStop how, gint64 deadline,
                          GError **error)
{
    g_autoptr(Export) export = mark_removing(registry, name, error);
    if (!export)
        return false;
    events_post(registry->events, TOPIC_EXPORT, "removing", name, NULL, NULL);
    g_autoptr(GPtrArray) clients = ref_clients(registry, export);
    gint64 now = g_get_monotonic_time();
    switch (how) {
    case CLIENT_STOP_DRAIN:
        clients_end(registry, clients, deadline, MAX(deadline, now) + HARD_WAIT);
        break;
    case CLIENT_STOP_HARD:
        clients_end(registry, clients, now, deadline);
        break;
    }

    Txn *txn = txn_begin(registry, g_get_monotonic_time() + COMMIT_WAIT);
    if (!txn_remove_export(txn, name, REMOVE_FORCED, error)) {
        txn_abort(txn);
    } else if (txn_commit(txn, error)) {
        return true;
    }
    registry_lock(registry);
    export->removing = false;
    events_post(registry->events, TOPIC_EXPORT, "changed", name, export->config->disk,
                "it was not removed");
    registry_unlock(registry);
    return false;
}
