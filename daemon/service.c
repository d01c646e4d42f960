#include "daemon/service.h"
#include "daemon/control/control.h"
#include "daemon/core/blocking.h"
#include "daemon/core/config.h"
#include "daemon/core/credentials.h"
#include "daemon/core/expiry.h"
#include "daemon/core/listeners.h"
#include "daemon/core/registry.h"
#include "daemon/nbd/listener.h"
#include "daemon/retry.h"
#include "schema/handlers.h"
#include <errno.h>
#include <pthread.h>

/* How long the start waits for files that do not answer before it serves the others. */
#define OPEN_PATIENCE (5 * G_USEC_PER_SEC)
/* What clients that are ended hard have to wait for: their requests on the disks. */
#define HARD_PATIENCE (5 * G_USEC_PER_SEC)
/* Control requests that still run, once the clients are gone: by themselves they wait no longer. */
#define REQUEST_PATIENCE (10 * G_USEC_PER_SEC)
#define REQUEST_PAUSE_MS 20
/* Calls that nobody waits for and that are about to end. */
#define LEFT_PATIENCE (G_USEC_PER_SEC / 4)
/* Syncing the disks and storing their bits. */
#define CLOSE_PATIENCE (60 * G_USEC_PER_SEC)

struct Service {
    Store *store;
    Engine *engine;
    Registry *registry;
    NbdServer *nbd_server;
    AccessRules *rules;
    Control *control;
    Retry *retry;
    gint64 drain_microseconds;

    pthread_t stopper;
    bool stopping;
    bool connections_ended; /* the stopper's answer */
    gint64 requests_deadline;
    void (*done)(gpointer data);
    gpointer done_data;
};

/* --- the NBD server's listeners, as the core wants them --- */

static gpointer start_listener(gpointer server, const char *name, const char *address,
                               GError **error)
{
    NbdListenerOptions options = {.name = name, .address = address};
    return nbd_listener_start(server, &options, error);
}

static const char *listener_address(gpointer socket)
{
    return nbd_listener_address(socket);
}

static void stop_listener(gpointer socket)
{
    nbd_listener_stop(socket);
}

static const ListenerOps listener_ops = {
    .start = start_listener,
    .address = listener_address,
    .stop = stop_listener,
    .check = nbd_address_check,
};

/* --- start --- */

static bool add_rules(Service *service, char **rules, GError **error)
{
    service->rules = access_rules_new();
    for (size_t i = 0; rules && rules[i]; i++) {
        if (!access_rules_add(service->rules, rules[i], error))
            return false;
    }
    return true;
}

/* The first name that is free: one of the store's listeners may be called like this. */
static char *free_listener_name(Registry *registry)
{
    registry_lock(registry);
    char *name = NULL;
    for (unsigned i = 1; !name; i++) {
        name = g_strdup_printf("listen-%u", i);
        if (registry_find_listener(registry, name))
            g_clear_pointer(&name, g_free);
    }
    registry_unlock(registry);
    return name;
}

static bool start_listeners(Service *service, char **addresses, GError **error)
{
    if (!config_load_listeners(service->registry, g_get_monotonic_time() + OPEN_PATIENCE, error))
        return false;
    for (size_t i = 0; addresses && addresses[i]; i++) {
        g_autofree char *name = free_listener_name(service->registry);
        g_autoptr(ListenerEntry) entry = listener_entry_new(name, addresses[i]);
        if (!listeners_add(service->registry, entry, false, error)) {
            g_prefix_error(error, "--listen %s: ", addresses[i]);
            return false;
        }
        g_message("listening on %s", entry->address);
    }
    return true;
}

static bool make_parent(const char *path, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    if (g_mkdir_with_parents(parent, 0755) == 0)
        return true;
    storage_error_set_errno(error, errno, "cannot make %s", parent);
    return false;
}

/* On any thread. */
static void on_invalidated(const char *disk, const char *bitmap, const char *reason,
                           gpointer events)
{
    g_warning("bitmap '%s' of disk '%s' is invalid: %s", bitmap, disk, reason);
    events_post_invalid(events, bitmap, disk, reason);
}

static bool bring_up(Service *service, const Options *options, GError **error)
{
    if (!add_rules(service, options->access, error))
        return false;
    service->store = store_open_with(options->state_dir, &options->store, error);
    if (!service->store)
        return false;
    if (store_notice(service->store))
        g_warning("%s", store_notice(service->store));

    DaemonFacts facts = {.state_dir = options->state_dir,
                         .socket = options->socket,
                         .started_at = g_get_real_time(),
                         .started_monotonic = g_get_monotonic_time()};
    service->engine = engine_new((unsigned)options->limits.io_threads, options->engine);
    if (!service->engine) {
        storage_error_set_errno(error, errno, "cannot start a thread");
        return false;
    }
    service->registry = registry_new(service->store, service->engine, &options->limits, &facts);
    store_on_invalidated(service->store, on_invalidated, registry_events(service->registry));
    service->nbd_server = nbd_server_new(service->registry);
    listeners_set_ops(service->registry, &listener_ops, service->nbd_server);
    expiry_start(service->registry);

    ControlConfig control = {.socket_path = options->socket,
                             .socket_group = options->socket_group,
                             .rules = service->rules,
                             .registry = service->registry,
                             .methods = api_methods,
                             .method_count = api_method_count};
    if (!make_parent(options->socket, error))
        return false;
    service->control = control_start(&control, error);
    return service->control &&
           config_load(service->registry, g_get_monotonic_time() + OPEN_PATIENCE, error) &&
           start_listeners(service, options->listen, error);
}

Service *service_start(const Options *options, GError **error)
{
    Service *service = g_new0(Service, 1);
    service->drain_microseconds = (gint64)options->limits.drain_seconds * G_USEC_PER_SEC;
    if (!bring_up(service, options, error)) {
        service->connections_ended = true; /* there never were any */
        if (service->registry)
            listeners_stop_all(service->registry);
        service_finish(service);
        return NULL;
    }
    service->retry = retry_start(service->registry);
    events_post(registry_events(service->registry), TOPIC_DAEMON, "started", NULL, NULL, NULL);
    return service;
}

/* --- reload --- */

static void reload_credentials(gpointer registry)
{
    credentials_reload_all(registry);
}

/* A GDestroyNotify for what is not a call's own. */
static void leave(gpointer registry)
{
}

/* Files may hang: not on this thread, and nobody waits. */
void service_reload(Service *service)
{
    bool begun;
    if (!service->stopping && !run_until(reload_credentials, service->registry, leave, 0, &begun) &&
        !begun)
        g_warning("the credentials are not read again: too much hangs already");
}

/* --- stop --- */

/* Requests that run get their answer, but for those that hang (on a file of a dead server). */
static gboolean await_requests(gpointer data)
{
    Service *service = data;
    if (control_busy(service->control) > 0 && g_get_monotonic_time() < service->requests_deadline)
        return G_SOURCE_CONTINUE;
    service->done(service->done_data);
    return G_SOURCE_REMOVE;
}

static void stop_control(Service *service)
{
    control_stop(service->control);
    service->requests_deadline = g_get_monotonic_time() + REQUEST_PATIENCE;
    if (await_requests(service) == G_SOURCE_CONTINUE)
        g_timeout_add(REQUEST_PAUSE_MS, await_requests, service);
}

static gboolean report_clients_gone(gpointer data)
{
    Service *service = data;
    pthread_join(service->stopper, NULL);
    stop_control(service);
    return G_SOURCE_REMOVE;
}

static void *stop_clients(void *argument)
{
    Service *service = argument;
    Registry *registry = service->registry;
    gint64 deadline = g_get_monotonic_time() + service->drain_microseconds;
    registry_stop_clients(registry, NULL, CLIENT_STOP_DRAIN);
    if (!registry_wait_clients(registry, NULL, deadline))
        g_warning("some clients have not finished in time: they are ended");
    registry_stop_clients(registry, NULL, CLIENT_STOP_HARD);
    service->connections_ended =
        nbd_server_wait(service->nbd_server, g_get_monotonic_time() + HARD_PATIENCE);
    g_idle_add(report_clients_gone, service);
    return NULL;
}

void service_stop(Service *service, void (*done)(gpointer data), gpointer data)
{
    if (service->stopping) {
        registry_stop_clients(service->registry, NULL, CLIENT_STOP_HARD);
        return;
    }
    service->stopping = true;
    service->done = done;
    service->done_data = data;
    events_post(registry_events(service->registry), TOPIC_DAEMON, "stopping", NULL, NULL, NULL);
    registry_begin_shutdown(service->registry);
    retry_stop(service->retry);
    listeners_stop_all(service->registry);
    if (pthread_create(&service->stopper, NULL, stop_clients, service) != 0) {
        g_warning("no thread to be had for stopping: clients are ended");
        registry_stop_clients(service->registry, NULL, CLIENT_STOP_HARD);
        stop_control(service);
    }
}

bool service_finish(Service *service)
{
    bool closed = true, answered = !service->control || control_busy(service->control) == 0;
    if (answered) /* or it would wait for what hangs */
        control_free(service->control);
    if (service->registry)
        expiry_stop(service->registry);
    if (service->registry && service->connections_ended)
        closed = config_close_disks(service->registry, g_get_monotonic_time() + CLOSE_PATIENCE);
    if (!answered || !service->connections_ended || !closed ||
        blocking_left_behind_until(g_get_monotonic_time() + LEFT_PATIENCE))
        return false;
    retry_free(service->retry);
    nbd_server_free(service->nbd_server);
    if (service->engine)
        engine_free(service->engine);
    registry_free(service->registry);
    store_close(service->store);
    access_rules_free(service->rules);
    g_free(service);
    return true;
}
