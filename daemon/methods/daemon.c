/* daemon.info */
#include "daemon/control/call.h"
#include "daemon/core/registry.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"
#include <unistd.h>

static GPtrArray *list_limits(const Limits *limits)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)limit_object_free);
    for (const LimitRow *row = limit_rows; row->flag; row++) {
        LimitObject *object = g_new0(LimitObject, 1);
        object->name = g_strdup(row->flag);
        object->value = limits_get(limits, row);
        object->description = g_strdup(row->help);
        g_ptr_array_add(list, object);
    }
    return list;
}

bool method_daemon_info(Call *call, const DaemonInfoParams *params, DaemonInfoResult *result,
                        GError **error)
{
    Registry *registry = call_registry(call);
    const DaemonFacts *facts = registry_facts(registry);
    RegistryCounts counts;
    registry_lock(registry);
    registry_count(registry, &counts);
    registry_unlock(registry);
    *result = (DaemonInfoResult){
        .name = g_strdup("nbdd"),
        .version = g_strdup(NBDD_VERSION),
        .pid = (uint64_t)getpid(),
        .started_at = time_text(facts->started_at),
        .uptime_seconds =
            (uint64_t)((g_get_monotonic_time() - facts->started_monotonic) / G_USEC_PER_SEC),
        .state_dir = g_strdup(facts->state_dir),
        .socket = g_strdup(facts->socket),
        .engine = g_strdup(engine_name(registry_engine(registry))),
        .access = call_access(call),
        .stopping = registry_is_stopping(registry),
        .disks = counts.disks,
        .exports = counts.exports,
        .bitmaps = counts.bitmaps,
        .listeners = counts.listeners,
        .clients = counts.clients + counts.handshakes,
        .limits = list_limits(registry_limits(registry)),
    };
    return true;
}
