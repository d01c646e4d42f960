#include "daemon/core/listeners.h"
#include "daemon/core/api_error.h"
#include "daemon/core/registry_state.h"
#include "daemon/core/rows.h"

void listeners_set_ops(Registry *registry, const ListenerOps *ops, gpointer server)
{
    registry->listener_ops = *ops;
    registry->listener_server = server;
}

/* "tcp:HOST:" of "tcp:HOST:PORT", NULL for others. */
static char *without_port(const char *address)
{
    const char *colon = strrchr(address, ':');
    if (!g_str_has_prefix(address, "tcp:") || colon == address + 3)
        return NULL;
    return g_strndup(address, colon - address + 1);
}

static bool asks_for_any_port(const char *address)
{
    return g_str_has_prefix(address, "tcp:") && g_str_has_suffix(address, ":0");
}

static bool same_address(const char *existing, const char *wanted)
{
    if (g_str_equal(existing, wanted))
        return true;
    g_autofree char *left = without_port(existing), *right = without_port(wanted);
    return left && right && g_str_equal(left, right) && asks_for_any_port(wanted);
}

bool listener_entry_is_same(const ListenerEntry *existing, const ListenerEntry *wanted)
{
    return (same_address(existing->requested, wanted->requested) ||
            same_address(existing->address, wanted->requested)) &&
           g_strcmp0(existing->credential, wanted->credential) == 0 &&
           existing->tls_mode == wanted->tls_mode && existing->max_clients == wanted->max_clients;
}

/* The name is taken from here on; clients that the socket accepts at once find their listener. */
static bool reserve(Registry *registry, ListenerEntry *entry, bool dry_run, GError **error)
{
    registry_lock(registry);
    bool exists = registry_find_listener(registry, entry->name) != NULL;
    bool full = g_hash_table_size(registry->listeners) >= registry->limits.listeners;
    bool stopping = registry->stopping;
    /* Together with the insertion: from then on credentials_remove sees who uses it. */
    bool known = !entry->credential || registry_find_credential(registry, entry->credential);
    if (!exists && !full && !stopping && known && !dry_run) {
        entry->changing = true;
        g_hash_table_insert(registry->listeners, entry->name, listener_entry_ref(entry));
    }
    registry_unlock(registry);
    if (exists)
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                      "there is a listener '%s' already", entry->name);
    else if (full)
        api_error_set(error, ERROR_LIMIT, NULL,
                      "there are as many listeners as there may be (--max-listeners)");
    else if (stopping)
        api_error_set(error, ERROR_INVALID_STATE, NULL, "the daemon is stopping");
    else if (!known)
        api_error_set(error, ERROR_NOT_FOUND, "/params/tls", "there is no credential '%s'",
                      entry->credential);
    return !exists && !full && !stopping && known;
}

static void forget(Registry *registry, ListenerEntry *entry)
{
    registry_lock(registry);
    g_hash_table_remove(registry->listeners, entry->name);
    registry_unlock(registry);
}

static gpointer start_socket(Registry *registry, const ListenerEntry *entry, GError **error)
{
    return registry->listener_ops.start(registry->listener_server, entry->name, entry->requested,
                                        error);
}

/* Under the lock. */
static void install_socket(Registry *registry, ListenerEntry *entry, gpointer socket)
{
    const char *address = registry->listener_ops.address(socket);
    g_autofree char *prefix = without_port(entry->requested);
    g_free(entry->address);
    entry->address = g_strdup(address);
    if (prefix && asks_for_any_port(entry->requested)) {
        /* A restart comes back on the port that was picked. */
        g_free(entry->requested);
        entry->requested = g_strconcat(prefix, strrchr(address, ':') + 1, NULL);
    }
    entry->socket = socket;
}

static bool open_socket(Registry *registry, ListenerEntry *entry, GError **error)
{
    gpointer socket = start_socket(registry, entry, error);
    if (!socket)
        return false;
    registry_lock(registry);
    bool stopping = registry->stopping; /* those that were there are stopped by now */
    if (!stopping)
        install_socket(registry, entry, socket);
    registry_unlock(registry);
    if (!stopping)
        return true;
    registry->listener_ops.stop(socket);
    api_error_set(error, ERROR_INVALID_STATE, "", "the daemon is stopping");
    return false;
}

/* Whether the address can be had is known only by having it, for a moment. The registry does not
 * know the listener, so nobody is served through it. */
static bool try_socket(Registry *registry, ListenerEntry *entry, GError **error)
{
    GError *local = NULL;
    if (!open_socket(registry, entry, &local)) {
        api_error_propagate(error, local, "/params/address");
        return false;
    }
    registry->listener_ops.stop(g_steal_pointer(&entry->socket));
    return true;
}

static gpointer take_socket(Registry *registry, ListenerEntry *entry)
{
    registry_lock(registry);
    gpointer socket = g_steal_pointer(&entry->socket);
    registry_unlock(registry);
    return socket;
}

static bool put_row(StoreTxn *txn, gpointer entry, GError **error)
{
    return listener_entry_put(txn, entry, error);
}

static bool delete_row(StoreTxn *txn, gpointer entry, GError **error)
{
    return store_del_listener(txn, ((ListenerEntry *)entry)->name, error);
}

bool listeners_add(Registry *registry, ListenerEntry *entry, bool dry_run, GError **error)
{
    GError *local = NULL;
    if (!registry->listener_ops.check(entry->requested, &local)) {
        api_error_propagate(error, local, "/params/address");
        return false;
    }
    if (!reserve(registry, entry, dry_run, error))
        return false;
    if (dry_run)
        return try_socket(registry, entry, error);
    if (!open_socket(registry, entry, &local)) {
        forget(registry, entry);
        api_error_propagate(error, local, "/params/address");
        return false;
    }
    if (entry->persistent && !store_transact(registry->store, put_row, entry, &local)) {
        registry->listener_ops.stop(take_socket(registry, entry));
        forget(registry, entry);
        api_error_propagate(error, local, NULL);
        return false;
    }
    registry_lock(registry);
    entry->changing = false;
    registry_unlock(registry);
    events_post(registry->events, TOPIC_LISTENER, "added", entry->name, NULL, entry->address);
    return true;
}

bool listeners_remove(Registry *registry, const char *name, bool dry_run, GError **error)
{
    registry_lock(registry);
    ListenerEntry *found = registry_find_listener(registry, name);
    g_autoptr(ListenerEntry) entry = found ? listener_entry_ref(found) : NULL;
    bool changing = entry && entry->changing;
    if (entry && !changing && !dry_run)
        entry->changing = true;
    registry_unlock(registry);
    if (!entry)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no listener '%s'", name);
    else if (changing)
        api_error_set(error, ERROR_BUSY, "/params/name", "listener '%s' is being added or removed",
                      name);
    if (!entry || changing || dry_run)
        return entry && !changing;

    GError *local = NULL;
    if (entry->persistent && !store_transact(registry->store, delete_row, entry, &local)) {
        registry_lock(registry);
        entry->changing = false;
        registry_unlock(registry);
        api_error_propagate(error, local, NULL);
        return false;
    }
    registry->listener_ops.stop(take_socket(registry, entry));
    forget(registry, entry);
    events_post(registry->events, TOPIC_LISTENER, "removed", name, NULL, NULL);
    return true;
}

void listeners_restore(Registry *registry, ListenerEntry *entry, char **ret_problem)
{
    registry_lock(registry);
    g_hash_table_insert(registry->listeners, entry->name, listener_entry_ref(entry));
    registry_unlock(registry);
    GError *local = NULL;
    if (open_socket(registry, entry, &local))
        return;
    registry_lock(registry);
    entry->problem = g_strdup(local->message);
    registry_unlock(registry);
    *ret_problem = g_strdup(local->message);
    g_error_free(local);
}

static bool has_failed(const ListenerEntry *entry)
{
    return entry->problem && !entry->socket && !entry->changing;
}

static GPtrArray *list_failed(Registry *registry)
{
    GPtrArray *failed = g_ptr_array_new_with_free_func((GDestroyNotify)listener_entry_unref);
    registry_lock(registry);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->listeners);
    while (!registry->stopping && g_hash_table_iter_next(&iter, NULL, &value)) {
        if (has_failed(value))
            g_ptr_array_add(failed, listener_entry_ref(value));
    }
    registry_unlock(registry);
    return failed;
}

/* Meanwhile it may be removed, which does not wait for this. */
static bool retry_one(Registry *registry, ListenerEntry *entry)
{
    GError *local = NULL;
    gpointer socket = start_socket(registry, entry, &local);
    registry_lock(registry);
    bool wanted = registry_find_listener(registry, entry->name) == entry && has_failed(entry) &&
                  !registry->stopping;
    if (wanted && socket)
        install_socket(registry, entry, g_steal_pointer(&socket));
    bool good = wanted && entry->socket;
    if (wanted) {
        g_free(entry->problem);
        entry->problem = good ? NULL : g_strdup(local->message);
    }
    registry_unlock(registry);
    g_clear_error(&local);
    if (socket)
        registry->listener_ops.stop(socket);
    if (good) {
        g_message("listener '%s' listens again", entry->name);
        events_post(registry->events, TOPIC_LISTENER, "changed", entry->name, NULL, "listening");
    }
    return good || !wanted;
}

bool listeners_retry(Registry *registry)
{
    g_autoptr(GPtrArray) failed = list_failed(registry);
    bool left = false;
    for (guint i = 0; i < failed->len; i++)
        left = !retry_one(registry, failed->pdata[i]) || left;
    return left;
}

void listeners_stop_all(Registry *registry)
{
    g_autoptr(GPtrArray) sockets = g_ptr_array_new();
    registry_lock(registry);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->listeners);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        g_ptr_array_add(sockets, g_steal_pointer(&((ListenerEntry *)value)->socket));
    registry_unlock(registry);
    for (guint i = 0; i < sockets->len; i++)
        registry->listener_ops.stop(sockets->pdata[i]);
}
