/* stats */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/client_state.h"
#include "daemon/core/registry.h"
#include "schema/handlers.h"

static ApiOperation api_operation(OpKind op)
{
    switch (op) {
    case OP_READ:
        return API_OPERATION_READ;
    case OP_WRITE:
        return API_OPERATION_WRITE;
    case OP_ZERO:
        return API_OPERATION_ZERO;
    case OP_TRIM:
        return API_OPERATION_TRIM;
    case OP_FLUSH:
        return API_OPERATION_FLUSH;
    case OP_STATUS:
        return API_OPERATION_STATUS;
    case OP_CACHE:
        return API_OPERATION_CACHE;
    case OP_COUNT:
        break;
    }
    g_assert_not_reached();
}

static GArray *histogram(const IoStats *stats, int op)
{
    GArray *list = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    guint used = 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++) {
        uint64_t count = atomic_load_explicit(&stats->latency[op][i], memory_order_relaxed);
        g_array_append_val(list, count);
        if (count)
            used = list->len;
    }
    g_array_set_size(list, used);
    return list;
}

static GPtrArray *operations(const IoStats *stats)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)operation_stats_object_free);
    for (int op = 0; op < OP_COUNT; op++) {
        uint64_t requests = atomic_load_explicit(&stats->requests[op], memory_order_relaxed);
        uint64_t errors = atomic_load_explicit(&stats->errors[op], memory_order_relaxed);
        if (requests == 0 && errors == 0)
            continue;
        OperationStatsObject *object = g_new0(OperationStatsObject, 1);
        object->operation = api_operation((OpKind)op);
        object->requests = requests;
        object->bytes = atomic_load_explicit(&stats->bytes[op], memory_order_relaxed);
        object->errors = errors;
        object->latency = histogram(stats, op);
        g_ptr_array_add(list, object);
    }
    return list;
}

static uint32_t in_flight(const IoStats *stats)
{
    return atomic_load_explicit(&stats->in_flight, memory_order_relaxed);
}

static void add_export(Registry *registry, Export *export, GPtrArray *list)
{
    IoStats stats;
    registry_sum_export(registry, export, &stats);
    ExportStatsObject *object = g_new0(ExportStatsObject, 1);
    object->name = g_strdup(export->config->name);
    object->clients = export->clients->len;
    ThrottleStats throttled = throttle_stats(export->throttle);
    object->throttled_requests = throttled.operations;
    object->throttled_microseconds = throttled.microseconds;
    object->operations = operations(&stats);
    g_ptr_array_add(list, object);
}

static void add_client(const Client *client, GPtrArray *list)
{
    ClientStatsObject *object = g_new0(ClientStatsObject, 1);
    object->id = client->id;
    object->export = client->export ? g_strdup(client->export->config->name) : NULL;
    object->in_flight = in_flight(&client->stats);
    object->operations = operations(&client->stats);
    g_ptr_array_add(list, object);
}

/* The cursor names the last object of the page before: "e/NAME" or "c/ID". */
typedef struct {
    const char *export; /* exports behind this one; NULL: from the first */
    bool only_clients;
    uint64_t client; /* clients behind this one */
} Place;

static Place parse_cursor(const char *cursor)
{
    Place place = {0};
    if (cursor && g_str_has_prefix(cursor, "e/"))
        place.export = cursor + 2;
    else if (cursor && g_str_has_prefix(cursor, "c/"))
        place = (Place){.only_clients = true, .client = g_ascii_strtoull(cursor + 2, NULL, 10)};
    return place;
}

static bool wants_export(const StatsParams *params, const Place *place, const Export *export)
{
    if (params->has_client || place->only_clients)
        return false;
    const char *name = export->config->name;
    return (!params->export || g_str_equal(name, params->export)) &&
           (!place->export || strcmp(name, place->export) > 0);
}

static bool wants_client(const StatsParams *params, const Place *place, const Client *client)
{
    if (client->id <= place->client || (params->has_client && client->id != params->client))
        return false;
    return !params->export ||
           (client->export && g_str_equal(client->export->config->name, params->export));
}

/* Under the lock. Answers whether what was asked for by name or id is there. */
static bool fill_lists(Registry *registry, const StatsParams *params, StatsResult *result)
{
    Place place = parse_cursor(params->cursor);
    uint64_t room = params->limit;
    bool found_client = false;
    g_autofree char *last = NULL;
    g_autoptr(GPtrArray) exports = registry_list_exports(registry);
    g_autoptr(GPtrArray) clients = registry_list_clients(registry);
    for (guint i = 0; i < exports->len + clients->len; i++) {
        bool is_export = i < exports->len;
        Export *export = is_export ? exports->pdata[i] : NULL;
        const Client *client = is_export ? NULL : clients->pdata[i - exports->len];
        if (client && params->has_client && client->id == params->client)
            found_client = true;
        if (is_export ? !wants_export(params, &place, export)
                      : !wants_client(params, &place, client))
            continue;
        if (room == 0) {
            result->next_cursor = g_steal_pointer(&last);
            break;
        }
        room--;
        g_free(last);
        if (is_export) {
            add_export(registry, export, result->exports);
            last = g_strdup_printf("e/%s", export->config->name);
        } else {
            add_client(client, result->clients);
            last = g_strdup_printf("c/%" G_GUINT64_FORMAT, client->id);
        }
    }
    return !params->has_client || found_client;
}

bool method_stats(Call *call, const StatsParams *params, StatsResult *result, GError **error)
{
    Registry *registry = call_registry(call);
    IoStats sum;
    RegistryCounts counts;
    result->exports = g_ptr_array_new_with_free_func((GDestroyNotify)export_stats_object_free);
    result->clients = g_ptr_array_new_with_free_func((GDestroyNotify)client_stats_object_free);
    registry_lock(registry);
    bool known_export = !params->export || registry_find_export(registry, params->export);
    bool known_client = fill_lists(registry, params, result);
    registry_sum_daemon(registry, &sum);
    registry_count(registry, &counts);
    registry_unlock(registry);
    StoreStats store;
    store_get_stats(registry_store(registry), &store);

    result->daemon = (DaemonStatsObject){
        .clients_accepted = counts.accepted,
        .clients_refused = counts.refused,
        .in_flight = in_flight(&sum),
        .tracking = {.commits = store.commits,
                     .syncs = store.syncs,
                     .intents_added = store.intents_added,
                     .intents_retired = store.intents_retired,
                     .failures = store.failures},
        .operations = operations(&sum),
    };
    if (!known_export)
        api_error_set(error, ERROR_NOT_FOUND, "/params/export", "there is no export '%s'",
                      params->export);
    else if (!known_client)
        api_error_set(error, ERROR_NOT_FOUND, "/params/client",
                      "there is no client %" G_GUINT64_FORMAT, params->client);
    return known_export && known_client;
}
