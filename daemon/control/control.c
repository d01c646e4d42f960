#include "daemon/control/control.h"
#include "daemon/control/control_state.h"
#include "daemon/control/request.h"
#include "daemon/core/api_error.h"
#include "daemon/core/txn.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Answers to one batch: what comes behind this many bytes is refused. */
#define BATCH_BYTES (16 * 1024 * 1024)
/* How often connections are looked at for having waited too long. */
#define CHECK_SECONDS 2
/* Connections accepted before others have their turn. */
#define ACCEPTS_A_TURN 16
/* How long nothing is accepted when there are no file descriptors left. */
#define PAUSE_MILLISECONDS 200

static void start_accepting(Control *control);

/* --- accepting --- */

static void refuse_connection(int fd, unsigned most)
{
    g_autoptr(GString) out = g_string_new(NULL);
    Fault fault = {ERROR_LIMIT, NULL,
                   g_strdup_printf("there are %u connections to the control socket already", most)};
    reply_fault(out, (Slice){0}, &fault);
    g_string_append_c(out, '\n');
    fault_clear(&fault);
    /* A fresh socket has room for it; whoever gave it none does not get to see it. */
    if (send(fd, out->str, out->len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        g_debug("control: refusal not sent: %s", g_strerror(errno));
    close(fd);
}

/* An eighth of the connections is kept for admins, so that others cannot lock them out. */
static bool has_room(const Control *control, ApiAccess access)
{
    unsigned kept = access == API_ACCESS_ADMIN ? 0 : control->most_connections / 8;
    return control->connection_count < control->most_connections - kept;
}

static void take_connection(Control *control, int fd)
{
    PeerCredentials peer;
    g_autoptr(GError) error = NULL;
    if (!peer_credentials_read(fd, &peer, &error)) {
        g_warning("control: %s", error->message);
        close(fd);
        return;
    }
    Caller caller = {access_rules_match(control->rules, &peer), peer.uid, peer.pid};
    peer_credentials_clear(&peer);
    if (has_room(control, caller.access))
        connection_new(control, fd, &caller);
    else
        refuse_connection(fd, control->most_connections);
}

static gboolean on_pause_over(gpointer data)
{
    Control *control = data;
    control->accept_source = 0;
    start_accepting(control);
    return G_SOURCE_REMOVE;
}

static gboolean on_acceptable(gint fd, GIOCondition condition, gpointer data)
{
    Control *control = data;
    for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client >= 0) {
            take_connection(control, client);
        } else if (errno == EAGAIN) {
            break;
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            /* The socket stays readable: without a pause this would spin. */
            g_warning("control: cannot accept: %s", g_strerror(errno));
            control->accept_source = g_timeout_add(PAUSE_MILLISECONDS, on_pause_over, control);
            return G_SOURCE_REMOVE;
        }
    }
    return G_SOURCE_CONTINUE;
}

static void start_accepting(Control *control)
{
    control->accept_source = g_unix_fd_add(control->socket.fd, G_IO_IN, on_acceptable, control);
}

/* --- waking --- */

/* Each of the connections in turn; function may close (and free) the one it is given. */
static void for_each_connection(Control *control, void (*function)(Connection *))
{
    for (GList *at = control->connections, *next; at; at = next) {
        next = at->next;
        function(at->data);
    }
}

static gboolean on_wake(gint fd, GIOCondition condition, gpointer data)
{
    Control *control = data;
    uint64_t count;
    if (read(fd, &count, sizeof(count)) < 0)
        return G_SOURCE_CONTINUE;
    for (Job *job = job_take_done(control), *next; job; job = next) {
        next = job->next;
        connection_job_done(job->connection, job);
        job_free(job);
    }
    job_start_waiting(control);
    for_each_connection(control, connection_wake);
    return G_SOURCE_CONTINUE;
}

/* On any thread, with locks held. */
static void on_event(gpointer data)
{
    uint64_t one = 1;
    if (write(((Control *)data)->wake_fd, &one, sizeof(one)) < 0)
        g_warn_if_reached();
}

static gboolean on_timer(gpointer data)
{
    Control *control = data;
    gint64 now = g_get_monotonic_time();
    for (GList *at = control->connections, *next; at; at = next) {
        next = at->next;
        connection_check_time(at->data, now);
    }
    engine_catch_up(control->engine);
    engine_catch_up(registry_engine(control->dispatcher.registry));
    return G_SOURCE_CONTINUE;
}

/* --- life --- */

Control *control_start(const ControlConfig *config, GError **error)
{
    const Limits *limits = registry_limits(config->registry);
    ControlSocket socket;
    if (!control_socket_open(config->socket_path, config->socket_group, &socket, error))
        return NULL;
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd < 0) {
        api_error_set(error, ERROR_IO, NULL, "cannot make an event descriptor: %s",
                      g_strerror(errno));
        control_socket_close(&socket);
        return NULL;
    }
    Engine *engine = engine_new((unsigned)limits->control_threads, ENGINE_THREADS);
    if (!engine) {
        api_error_set(error, ERROR_IO, NULL, "cannot start a thread: %s", g_strerror(errno));
        close(wake_fd);
        control_socket_close(&socket);
        return NULL;
    }
    Control *control = g_new0(Control, 1);
    control->dispatcher = (Dispatcher){.registry = config->registry,
                                       .methods = config->methods,
                                       .method_count = config->method_count,
                                       .run_actions = txn_run,
                                       .batch_bytes = BATCH_BYTES};
    control->rules = config->rules;
    control->line_bytes = limits->control_request_bytes;
    control->most_connections = (unsigned)limits->control_connections;
    control->engine = engine;
    control->most_common = (unsigned)MAX(limits->control_threads / 2, 1);
    g_queue_init(&control->waiting);
    control->socket = socket;
    control->wake_fd = wake_fd;
    pthread_mutex_init(&control->done_mutex, NULL);
    control->wake_source = g_unix_fd_add(wake_fd, G_IO_IN, on_wake, control);
    control->timer_source = g_timeout_add_seconds(CHECK_SECONDS, on_timer, control);
    control->watch = events_watch(registry_events(config->registry), on_event, control);
    start_accepting(control);
    return control;
}

void control_stop(Control *control)
{
    if (control->stopping)
        return;
    control->stopping = true;
    g_source_remove(control->accept_source);
    control_socket_shut(&control->socket);
    for_each_connection(control, connection_stop);
}

unsigned control_busy(const Control *control)
{
    return control->busy;
}

void control_free(Control *control)
{
    if (!control)
        return;
    control_stop(control);
    engine_free(control->engine); /* waits for jobs */
    events_unwatch(registry_events(control->dispatcher.registry), control->watch);
    g_source_remove(control->wake_source);
    g_source_remove(control->timer_source);
    for_each_connection(control, connection_close);
    for (Job *job = job_take_done(control), *next; job; job = next) {
        next = job->next;
        connection_job_done(job->connection, job);
        job_free(job);
    }
    for (Job *job; (job = g_queue_pop_head(&control->waiting));) {
        connection_job_done(job->connection, job);
        job_free(job);
    }
    close(control->wake_fd);
    pthread_mutex_destroy(&control->done_mutex);
    control_socket_close(&control->socket);
    g_free(control);
}
