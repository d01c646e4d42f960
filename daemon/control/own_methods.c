/* The methods that the control plane answers itself: they are about the connection, the API or
 * other methods. */
#include "daemon/control/call_state.h"
#include "daemon/core/api_error.h"
#include "daemon/core/registry.h"
#include "schema/handlers.h"
#include "schema/openrpc.h"

bool control_rpc_discover(Call *call, const RpcDiscoverParams *params, RpcDiscoverResult *result,
                          GError **error)
{
    result->json = g_strdup(api_openrpc_document);
    return true;
}

/* The schema's set of topics as core counts them. */
static unsigned core_topics(uint32_t topics)
{
    unsigned set = 0;
    EventTopic topic;
    for (unsigned i = 0; i < 32; i++) {
        const char *name = topics & (1u << i) ? api_event_topic_name((ApiEventTopic)i) : NULL;
        if (name && event_topic_parse(name, &topic))
            set |= 1u << topic;
    }
    return set;
}

bool control_event_subscribe(Call *call, const EventSubscribeParams *params,
                             EventSubscribeResult *result, GError **error)
{
    uint64_t last = events_last(registry_events(call->dispatcher->registry));
    uint32_t topics = params->has_topics ? params->topics : UINT32_MAX;
    if (params->has_since && params->since > last) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/since",
                      "`since` is %" G_GUINT64_FORMAT
                      ", but the newest event is %" G_GUINT64_FORMAT,
                      params->since, last);
        return false;
    }
    *call->effects = (Effects){
        .subscribe = true,
        .topics = core_topics(topics),
        .cursor = params->has_since ? params->since : last,
    };
    result->seq = last;
    result->topics = topics;
    return true;
}

static bool check_actions(const Call *call, const GPtrArray *actions, GError **error)
{
    for (guint i = 0; i < actions->len; i++) {
        const ApiMethod *method = ((ApiAction *)actions->pdata[i])->method;
        if (method->access <= call->caller.access)
            continue;
        g_autofree char *path = g_strdup_printf("/params/actions/%u/method", i);
        api_error_set(error, ERROR_DENIED, path,
                      "%s needs the access level %s, this connection has %s", method->name,
                      api_access_name(method->access), api_access_name(call->caller.access));
        return false;
    }
    return true;
}

/* The path of an action's error, from where the action stands. */
static void blame_action(GError **error, GError *inner, size_t index)
{
    GError *api = NULL;
    api_error_propagate(&api, inner, NULL);
    const char *path = api_error_path(api);
    g_autofree char *full = g_strdup_printf("/params/actions/%zu%s", index, path ? path : "");
    api_error_set(error, (ErrorKind)api->code, full, "%s", api->message);
    g_error_free(api);
}

bool control_transaction(Call *call, const TransactionParams *params, TransactionResult *result,
                         GError **error)
{
    const GPtrArray *list = params->actions;
    const Dispatcher *dispatcher = call->dispatcher;
    gint64 deadline = g_get_monotonic_time() + (gint64)params->timeout_seconds * G_USEC_PER_SEC;
    if (!check_actions(call, list, error))
        return false;
    GError *inner = NULL;
    size_t failed = list->len;
    if (!dispatcher->run_actions(dispatcher->registry, (ApiAction *const *)list->pdata, list->len,
                                 deadline, params->dry_run, &failed, &inner)) {
        if (failed < list->len)
            blame_action(error, inner, failed);
        else
            g_propagate_error(error, inner);
        return false;
    }
    result->results = g_ptr_array_ref(params->actions);
    return true;
}
