/* client.list, client.disconnect */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/client_state.h"
#include "daemon/core/registry.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"

/* How long a client that was told to end may finish what is in flight. */
#define GRACE_SECONDS 5

static OperationCountersObject counters_of(const IoStats *stats, OpKind op)
{
    return (OperationCountersObject){
        .requests = atomic_load_explicit(&stats->requests[op], memory_order_relaxed),
        .bytes = atomic_load_explicit(&stats->bytes[op], memory_order_relaxed),
        .errors = atomic_load_explicit(&stats->errors[op], memory_order_relaxed),
    };
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
        .state = client->stopping ? API_CLIENT_STATE_CLOSING
                 : client->export ? API_CLIENT_STATE_CONNECTED
                                  : API_CLIENT_STATE_HANDSHAKE,
        .export = client->export ? g_strdup(client->export->config->name) : NULL,
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
    return !export || (client->export && g_str_equal(client->export->config->name, export));
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

typedef struct {
    Registry *registry;
    uint64_t id;
} Ending;

static gboolean end_hard(gpointer data)
{
    Ending *ending = data;
    registry_lock(ending->registry);
    Client *client = registry_find_client(ending->registry, ending->id);
    if (client)
        client_stop(client, CLIENT_STOP_HARD);
    registry_unlock(ending->registry);
    return G_SOURCE_REMOVE;
}

bool method_client_disconnect(Call *call, const ClientDisconnectParams *params,
                              ClientDisconnectResult *result, GError **error)
{
    Registry *registry = call_registry(call);
    registry_lock(registry);
    Client *client = registry_find_client(registry, params->id);
    if (client && !params->dry_run)
        client_stop(client, CLIENT_STOP_DRAIN);
    registry_unlock(registry);
    if (!client) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/id", "there is no client %" G_GUINT64_FORMAT,
                      params->id);
        return false;
    }
    if (!params->dry_run) {
        Ending *ending = g_new0(Ending, 1);
        *ending = (Ending){registry, params->id};
        g_timeout_add_seconds_full(G_PRIORITY_DEFAULT, GRACE_SECONDS, end_hard, ending, g_free);
    }
    result->id = params->id;
    result->disconnected = true;
    return true;
}
