/* client.list, client.disconnect */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/client_state.h"
#include "daemon/core/evict.h"
#include "daemon/core/registry.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"

static OperationCountersObject counters_of(const IoStats *stats, OpKind op)
{
    return (OperationCountersObject){
        .requests = atomic_load_explicit(&stats->requests[op], memory_order_relaxed),
        .bytes = atomic_load_explicit(&stats->bytes[op], memory_order_relaxed),
        .errors = atomic_load_explicit(&stats->errors[op], memory_order_relaxed),
    };
}

/* The one it uses, or waits for. */
static const char *name_of_export(const Client *client)
{
    const Export *export = client->export ? client->export : client->waiting_for;
    return export ? export->config->name : NULL;
}

/* Under the registry's lock. */
static void render(const Client *client, ClientObject *object)
{
    char **identity = g_new0(char *, client->identities->len + 1);
    for (guint i = 0; i < client->identities->len; i++)
        identity[i] = g_strdup(allow_identity_text(client->identities->pdata[i]));
    const IoStats *stats = &client->stats;
    *object = (ClientObject){
        .id = client->id,
        .state = client->stopping      ? API_CLIENT_STATE_CLOSING
                 : client->export      ? API_CLIENT_STATE_CONNECTED
                 : client->waiting_for ? API_CLIENT_STATE_WAITING
                                       : API_CLIENT_STATE_HANDSHAKE,
        .export = g_strdup(name_of_export(client)),
        .listener = g_strdup(client->listener->name),
        .address = g_strdup(client->address),
        .identity = identity,
        .tls = client->tls,
        .read_only = client->export && client->read_only,
        .features = client->features ? g_strdupv(client->features) : g_new0(char *, 1),
        .connected_at = time_text(client->connected_at),
        .in_flight = atomic_load_explicit(&stats->in_flight, memory_order_relaxed),
        .counters =
            {
                .read = counters_of(stats, OP_READ),
                .write = counters_of(stats, OP_WRITE),
                .zero = counters_of(stats, OP_ZERO),
                .trim = counters_of(stats, OP_TRIM),
                .flush = counters_of(stats, OP_FLUSH),
                .status = counters_of(stats, OP_STATUS),
                .cache = counters_of(stats, OP_CACHE),
            },
    };
}

static bool is_of_export(const Client *client, const char *export)
{
    return !export || g_strcmp0(name_of_export(client), export) == 0;
}

bool method_client_list(Call *call, const ClientListParams *params, ClientListResult *result,
                        GError **error)
{
    Registry *registry = call_registry(call);
    uint64_t after = params->cursor ? g_ascii_strtoull(params->cursor, NULL, 10) : 0;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)client_object_free);
    uint64_t last = 0;
    registry_lock(registry);
    bool known = !params->export || registry_find_export(registry, params->export);
    g_autoptr(GPtrArray) clients = registry_list_clients(registry);
    for (guint i = 0; i < clients->len; i++) {
        const Client *client = clients->pdata[i];
        if (client->id <= after || !is_of_export(client, params->export))
            continue;
        if (list->len == params->limit) {
            result->next_cursor = g_strdup_printf("%" G_GUINT64_FORMAT, last);
            break;
        }
        ClientObject *object = g_new0(ClientObject, 1);
        render(client, object);
        g_ptr_array_add(list, object);
        last = client->id;
    }
    registry_unlock(registry);
    result->clients = list;
    if (!known)
        api_error_set(error, ERROR_NOT_FOUND, "/params/export", "there is no export '%s'",
                      params->export);
    return known;
}

/* An entry as an allow list has them; what only a list means is refused. */
static AllowList *parse_identity(const char *text, GError **error)
{
    const char *entries[] = {text, NULL};
    g_autofree char *reason = NULL;
    size_t index;
    AllowList *list = NULL;
    if (*text == '!' || g_str_has_prefix(text, "ro:") || allow_time_is_in_front(text))
        reason = g_strdup("'ro:', '!', 'until:' and 'for:' belong to allow lists");
    else
        list = allow_list_new(entries, &index, &reason);
    if (list && allow_list_wants_groups(list)) {
        /* Clients look their groups up when a list of an export asks for them, not before. */
        g_clear_pointer(&list, allow_list_unref);
        reason = g_strdup("name users (unix:UID), not a group");
    }
    if (!list)
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/identity", "identity '%s': %s", text,
                      reason);
    return list;
}

/* Under the lock. */
static GPtrArray *clients_of(Registry *registry, const AllowList *identity)
{
    GPtrArray *clients = registry_list_clients(registry);
    for (guint i = clients->len; i > 0; i--) {
        const Client *client = clients->pdata[i - 1];
        if (allow_list_match(identity, client->identities) == ALLOW_NOTHING)
            g_ptr_array_remove_index(clients, i - 1);
    }
    return clients;
}

bool method_client_disconnect(Call *call, const ClientDisconnectParams *params,
                              ClientDisconnectResult *result, GError **error)
{
    Registry *registry = call_registry(call);
    g_autoptr(AllowList) identity = NULL;
    if (params->identity && !(identity = parse_identity(params->identity, error)))
        return false;

    registry_lock(registry);
    Client *one = identity ? NULL : registry_find_client(registry, params->id);
    g_autoptr(GPtrArray) clients = identity ? clients_of(registry, identity) : g_ptr_array_new();
    if (one)
        g_ptr_array_add(clients, one);
    result->clients = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (guint i = 0; i < clients->len; i++) {
        Client *client = clients->pdata[i];
        g_array_append_val(result->clients, client->id);
        if (!params->dry_run)
            client_end_soon(client);
    }
    registry_unlock(registry);
    if (!identity && !one) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/id", "there is no client %" G_GUINT64_FORMAT,
                      params->id);
        return false;
    }
    result->has_id = one != NULL;
    result->id = params->id;
    result->disconnected = result->clients->len > 0;
    return true;
}
