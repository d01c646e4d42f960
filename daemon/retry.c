#include "daemon/retry.h"
#include "daemon/core/blocking.h"
#include "daemon/core/disk_refresh.h"
#include "daemon/core/listeners.h"
#include <stdatomic.h>

#define FIRST_SECONDS 1
#define MOST_SECONDS  60

struct Retry {
    Registry *registry;
    guint source, seconds;
    _Atomic bool running, left;
};

static bool any_failed(Registry *registry)
{
    bool any = false;
    registry_lock(registry);
    g_autoptr(GPtrArray) entries = registry_list_listeners(registry);
    for (guint i = 0; i < entries->len; i++)
        any = any || ((ListenerEntry *)entries->pdata[i])->problem;
    registry_unlock(registry);
    g_autoptr(GPtrArray) locked = disks_list_locked(registry);
    return any || locked->len > 0;
}

/* On a thread of its own: names are resolved, and files of sockets may hang. */
static void attempt(gpointer data)
{
    Retry *retry = data;
    bool listeners = listeners_retry(retry->registry), disks = disks_retry(retry->registry);
    atomic_store(&retry->left, listeners || disks);
    atomic_store(&retry->running, false);
}

/* A GDestroyNotify for what is not a call's own. */
static void leave(gpointer retry)
{
}

static gboolean on_time(gpointer data)
{
    Retry *retry = data;
    retry->source = 0;
    if (!atomic_load(&retry->left))
        return G_SOURCE_REMOVE;
    if (!atomic_exchange(&retry->running, true)) {
        bool begun;
        if (!run_until(attempt, retry, leave, 0, &begun) && !begun)
            atomic_store(&retry->running, false);
    }
    retry->seconds = MIN(retry->seconds * 2, MOST_SECONDS);
    retry->source = g_timeout_add_seconds(retry->seconds, on_time, retry);
    return G_SOURCE_REMOVE;
}

Retry *retry_start(Registry *registry)
{
    if (!any_failed(registry))
        return NULL;
    Retry *retry = g_new0(Retry, 1);
    retry->registry = registry;
    retry->seconds = FIRST_SECONDS;
    atomic_init(&retry->left, true);
    retry->source = g_timeout_add_seconds(retry->seconds, on_time, retry);
    return retry;
}

void retry_stop(Retry *retry)
{
    if (retry && retry->source)
        g_source_remove(retry->source);
    if (retry)
        retry->source = 0;
}

void retry_free(Retry *retry)
{
    g_free(retry);
}
