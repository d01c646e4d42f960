/* listener.add, remove, list */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/listeners.h"
#include "daemon/core/registry.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"

/* Under the registry's lock, or for an entry that is nobody else's. */
static void render(const ListenerEntry *entry, ListenerObject *object)
{
    *object = (ListenerObject){
        .name = g_strdup(entry->name),
        .address = g_strdup(entry->address),
        .tls = g_strdup(entry->credential),
        .has_tls_mode = entry->tls_mode != LISTENER_TLS_NONE,
        .tls_mode =
            entry->tls_mode == LISTENER_TLS_ALLOW ? API_TLS_MODE_ALLOW : API_TLS_MODE_REQUIRE,
        .has_max_clients = entry->max_clients > 0,
        .max_clients = entry->max_clients,
        .state = entry->problem ? API_LISTENER_STATE_FAILED : API_LISTENER_STATE_LISTENING,
        .problem = g_strdup(entry->problem),
        .clients = entry->clients,
        .persistent = entry->persistent,
    };
}

static const char *key_of(gconstpointer entry)
{
    return ((const ListenerEntry *)entry)->name;
}

bool method_listener_list(Call *call, const ListenerListParams *params, ListenerListResult *result,
                          GError **error)
{
    Registry *registry = call_registry(call);
    result->listeners = g_ptr_array_new_with_free_func((GDestroyNotify)listener_object_free);
    registry_lock(registry);
    g_autoptr(GPtrArray) entries = registry_list_listeners(registry);
    guint end, begin = page_begin(entries, params->cursor, params->limit, key_of, &end);
    for (guint i = begin; i < end; i++) {
        ListenerObject *object = g_new0(ListenerObject, 1);
        render(entries->pdata[i], object);
        g_ptr_array_add(result->listeners, object);
    }
    result->next_cursor = page_next(entries, begin, end, key_of);
    registry_unlock(registry);
    return true;
}

static bool check_tls(const ListenerAddParams *params, GError **error)
{
    if (!params->tls && params->has_tls_mode) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/tls_mode",
                      "`tls_mode` says how a credential is used: give `tls` too");
        return false;
    }
    return true;
}

bool method_listener_add(Call *call, const ListenerAddParams *params, ListenerAddResult *result,
                         GError **error)
{
    Registry *registry = call_registry(call);
    if (!check_tls(params, error))
        return false;
    g_autoptr(ListenerEntry) entry = listener_entry_new(params->name, params->address);
    entry->max_clients = params->max_clients;
    entry->credential = g_strdup(params->tls);
    if (params->tls)
        entry->tls_mode = params->has_tls_mode && params->tls_mode == API_TLS_MODE_ALLOW
                              ? LISTENER_TLS_ALLOW
                              : LISTENER_TLS_REQUIRE;
    entry->persistent = true;

    if (params->if_exists == API_IF_EXISTS_SAME) {
        registry_lock(registry);
        const ListenerEntry *existing = registry_find_listener(registry, params->name);
        bool changing = existing && existing->changing;
        bool same = !changing && existing && listener_entry_is_same(existing, entry);
        if (same)
            render(existing, result);
        registry_unlock(registry);
        if (changing) { /* whether it comes or stays is not known yet */
            api_error_set(error, ERROR_BUSY, "/params/name",
                          "listener '%s' is being added or removed", params->name);
            return false;
        }
        if (same)
            return true;
        if (existing) {
            api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                          "there is a listener '%s' with another address or other settings",
                          params->name);
            return false;
        }
    }
    if (!listeners_add(registry, entry, params->dry_run, error))
        return false;
    registry_lock(registry);
    render(entry, result);
    registry_unlock(registry);
    return true;
}

bool method_listener_remove(Call *call, const ListenerRemoveParams *params,
                            ListenerRemoveResult *result, GError **error)
{
    GError *local = NULL;
    result->name = g_strdup(params->name);
    result->removed = listeners_remove(call_registry(call), params->name, params->dry_run, &local);
    if (result->removed)
        return true;
    if (params->missing_ok && g_error_matches(local, API_ERROR, ERROR_NOT_FOUND)) {
        g_error_free(local);
        return true;
    }
    g_propagate_error(error, local);
    return false;
}
