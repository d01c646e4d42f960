/* One connection to the control socket.
 *
 * States: it reads until it has a line; the line runs, here if it is short and `inline`, else as a
 * job; its answer is sent; then it reads on. While a job runs or an answer is not sent yet nothing
 * is read, so what a client can have queued is one line, one answer and a few events. */
#include "daemon/control/control_state.h"
#include "daemon/control/request.h"
#include "daemon/control/subscription.h"
#include "daemon/core/registry.h"

#include <errno.h>
#include <glib-unix.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Bytes asked for at once. */
#define READ_BYTES 16384
/* Longer lines are scanned on a thread, whatever they call. */
#define INLINE_LINE_BYTES 4096
/* Lines answered, and time taken for them, before others have their turn. */
#define LINES_A_TURN 16
#define TURN_TIME    1000
/* Events are added as long as less than this waits to be sent. */
#define EVENT_BYTES 32768
/* A line that was begun is to be finished in this time. */
#define LINE_SECONDS 30
/* An answer as long as STALL_BYTES must move on in this time. */
#define STALL_SECONDS 60
#define STALL_BYTES   262144
/* Answers to all connections that are not taken. Who is no admin gets no long one beyond it. */
#define UNSENT_BYTES (64 * 1024 * 1024)
/* After an error that ends the connection: how long and how much is read away, so that the client
 * gets to see the error. */
#define LINGER_SECONDS 5
#define LINGER_BYTES   (64 * 1024 * 1024)

struct Connection {
    Control *control;
    GList *link; /* in control->connections */
    int fd;      /* -1: closed, waiting for its job */
    Caller caller;
    guint read_source, write_source, turn_source;
    bool busy;      /* a job runs */
    bool eof;       /* the client sends no more */
    bool ending;    /* reads no more requests; closes when all is sent */
    bool lingering; /* all is sent; reads away what still comes */

    char *in;                /* what was read and not yet answered: from in_start to in_end */
    size_t in_start, in_end; /* offsets */
    size_t in_size;
    size_t in_scanned; /* offset; there is no line break before this */
    gint64 line_since; /* when the unfinished line began; 0: there is none */

    GString *out;
    size_t out_sent;
    gint64 moved_at; /* when something was sent last */

    size_t lingered;
    gint64 linger_since;
    Subscription subscription;
};

static void take_turn(Connection *connection);
static void update_sources(Connection *connection);

/* --- life --- */

static void clear_source(guint *source)
{
    if (*source)
        g_source_remove(*source);
    *source = 0;
}

static void free_connection(Connection *connection)
{
    free(connection->in);
    g_string_free(connection->out, TRUE);
    g_free(connection);
}

void connection_close(Connection *connection)
{
    Control *control = connection->control;
    if (connection->fd >= 0) {
        clear_source(&connection->read_source);
        clear_source(&connection->write_source);
        clear_source(&connection->turn_source);
        close(connection->fd);
        connection->fd = -1;
        control->connections = g_list_delete_link(control->connections, connection->link);
        control->connection_count--;
    }
    if (!connection->busy)
        free_connection(connection);
}

void connection_new(Control *control, int fd, const Caller *caller)
{
    Connection *connection = g_new0(Connection, 1);
    connection->control = control;
    connection->fd = fd;
    connection->caller = *caller;
    connection->out = g_string_new(NULL);
    control->connections = g_list_prepend(control->connections, connection);
    connection->link = control->connections;
    control->connection_count++;
    update_sources(connection);
}

/* --- sending --- */

static size_t pending(const Connection *connection)
{
    return connection->out->len - connection->out_sent;
}

/* Sends what the socket takes. False: the client is gone. */
static bool send_out(Connection *connection)
{
    while (pending(connection) > 0) {
        ssize_t sent = send(connection->fd, connection->out->str + connection->out_sent,
                            pending(connection), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN;
        connection->out_sent += (size_t)sent;
        connection->moved_at = g_get_monotonic_time();
    }
    if (connection->out->allocated_len > EVENT_BYTES) {
        g_string_free(connection->out, TRUE); /* give back what a long answer took */
        connection->out = g_string_new(NULL);
    }
    g_string_truncate(connection->out, 0);
    connection->out_sent = 0;
    return true;
}

/* Nothing more will be read as requests. What the client still sends is read away for a while:
 * closing over it would fail its send, and who stops there does not see the error. */
static void begin_linger(Connection *connection)
{
    connection->lingering = true;
    connection->linger_since = g_get_monotonic_time();
    shutdown(connection->fd, SHUT_WR);
}

/* --- lines --- */

static void refuse_and_end(Connection *connection, const char *text)
{
    g_string_append(connection->out, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,"
                                     "\"message\":");
    api_encode_string(text, connection->out);
    g_string_append(connection->out, ",\"data\":{\"kind\":\"parse-error\",\"detail\":");
    api_encode_string(text, connection->out);
    g_string_append(connection->out, ",\"path\":\"\"}}}\n");
    connection->ending = true;
}

static void run_line(Connection *connection, const char *line, size_t length)
{
    Control *control = connection->control;
    if (length > INLINE_LINE_BYTES || !dispatch_is_inline(&control->dispatcher, line, length)) {
        connection->busy = true;
        job_start(control, connection, &connection->caller, g_strndup(line, length), length);
        return;
    }
    Effects effects;
    dispatch_line(&control->dispatcher, &connection->caller, line, length, connection->out,
                  &effects);
    subscription_apply(&connection->subscription, &effects);
}

/* Runs the first line of the input, if there is one. */
static bool run_next_line(Connection *connection)
{
    if (connection->in_scanned == connection->in_end)
        return false;
    const char *start = connection->in + connection->in_start;
    const char *end = memchr(connection->in + connection->in_scanned, '\n',
                             connection->in_end - connection->in_scanned);
    size_t length = end ? (size_t)(end - start) : connection->in_end - connection->in_start;
    if (length > connection->control->line_bytes) {
        g_autofree char *text =
            g_strdup_printf("the line is longer than %zu bytes", connection->control->line_bytes);
        refuse_and_end(connection, text);
        return false;
    }
    if (!end) {
        connection->in_scanned = connection->in_end;
        if (connection->line_since == 0)
            connection->line_since = g_get_monotonic_time();
        return false;
    }
    connection->in_start += length + 1;
    connection->in_scanned = connection->in_start;
    connection->line_since = 0;
    run_line(connection, start, length);
    return true;
}

static gboolean on_turn(gpointer data)
{
    Connection *connection = data;
    connection->turn_source = 0;
    take_turn(connection);
    return G_SOURCE_REMOVE;
}

/* The client sends no more, and every whole line is answered. */
static void end_of_input(Connection *connection)
{
    if (connection->in_end > connection->in_start)
        refuse_and_end(connection, "the last line has no line break at its end");
    connection->ending = true;
}

static bool is_idle(const Connection *connection)
{
    return !connection->busy && !connection->ending && pending(connection) == 0;
}

/* Runs lines, pulls events and sends, as far as it goes without waiting. May free the connection.
 */
static void take_turn(Connection *connection)
{
    Events *events = registry_events(connection->control->dispatcher.registry);
    gint64 until = g_get_monotonic_time() + TURN_TIME;
    unsigned lines = 0;
    bool good = send_out(connection), over = false;
    while (good && is_idle(connection) && !over && run_next_line(connection)) {
        good = send_out(connection);
        over = ++lines == LINES_A_TURN || g_get_monotonic_time() > until;
    }
    if (good && !connection->ending && pending(connection) < EVENT_BYTES)
        subscription_pull(&connection->subscription, events, connection->out,
                          connection->out_sent + EVENT_BYTES);
    if (over && connection->turn_source == 0)
        /* Behind what is ready now, and not until nothing is: a busy loop never gets there. */
        connection->turn_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_turn, connection, NULL);
    else if (good && connection->eof && is_idle(connection))
        end_of_input(connection);
    good = good && send_out(connection);
    if (good && connection->ending && !connection->busy && pending(connection) == 0 &&
        !connection->lingering) {
        good = !connection->eof; /* nothing to linger for */
        if (good)
            begin_linger(connection);
    }
    if (good)
        update_sources(connection);
    else
        connection_close(connection);
}

/* --- receiving --- */

/* Makes room for READ_BYTES behind what there is. */
static bool make_room(Connection *connection)
{
    size_t length = connection->in_end - connection->in_start;
    if (connection->in_start > 0) {
        memmove(connection->in, connection->in + connection->in_start, length);
        connection->in_scanned -= connection->in_start;
        connection->in_start = 0;
        connection->in_end = length;
    }
    if (connection->in_size - length >= READ_BYTES)
        return true;
    /* Bounded by line_bytes: longer lines are refused before more is read. */
    size_t size = MAX(connection->in_size * 2, READ_BYTES * 2);
    char *larger = realloc(connection->in, size);
    if (!larger)
        return false;
    connection->in = larger;
    connection->in_size = size;
    return true;
}

static void give_back_room(Connection *connection)
{
    if (connection->in_end > connection->in_start)
        return;
    g_clear_pointer(&connection->in, free);
    connection->in_size = connection->in_start = connection->in_end = connection->in_scanned = 0;
}

static void read_away(Connection *connection)
{
    char bytes[READ_BYTES];
    ssize_t got = recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0)
        connection->lingered += (size_t)got;
    if (got <= 0 || connection->lingered > LINGER_BYTES)
        connection_close(connection);
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer data)
{
    Connection *connection = data;
    if (connection->lingering) {
        read_away(connection);
        return G_SOURCE_CONTINUE;
    }
    if (!make_room(connection)) {
        connection_close(connection);
        return G_SOURCE_CONTINUE;
    }
    ssize_t got = recv(fd, connection->in + connection->in_end, READ_BYTES, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return G_SOURCE_CONTINUE;
    if (got < 0) {
        connection_close(connection);
        return G_SOURCE_CONTINUE;
    }
    connection->eof = got == 0;
    connection->in_end += (size_t)got;
    take_turn(connection);
    return G_SOURCE_CONTINUE;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer data)
{
    take_turn(data);
    return G_SOURCE_CONTINUE;
}

/* Watches what the connection waits for. */
static void update_sources(Connection *connection)
{
    bool want_read = connection->lingering ||
                     (is_idle(connection) && !connection->eof && connection->turn_source == 0);
    bool want_write = pending(connection) > 0;
    if (!want_read)
        clear_source(&connection->read_source);
    else if (connection->read_source == 0)
        connection->read_source = g_unix_fd_add(connection->fd, G_IO_IN, on_readable, connection);
    if (!want_write)
        clear_source(&connection->write_source);
    else if (connection->write_source == 0)
        connection->write_source = g_unix_fd_add(connection->fd, G_IO_OUT, on_writable, connection);
    if (want_write && connection->moved_at == 0)
        connection->moved_at = g_get_monotonic_time();
    if (!want_write)
        connection->moved_at = 0;
    give_back_room(connection);
}

/* --- from outside --- */

static bool is_too_much(const Connection *connection, size_t length)
{
    const Control *control = connection->control;
    size_t sum = length;
    if (connection->caller.access == API_ACCESS_ADMIN || length < STALL_BYTES)
        return false;
    for (const GList *at = control->connections; at; at = at->next)
        sum += pending(at->data);
    return sum > UNSENT_BYTES;
}

static void take_answer(Connection *connection, const GString *answer)
{
    if (is_too_much(connection, answer->len)) {
        Fault fault = {ERROR_LIMIT, NULL, g_strdup("too many answers wait to be read")};
        reply_fault(connection->out, (Slice){0}, &fault);
        g_string_append_c(connection->out, '\n');
        fault_clear(&fault);
        connection->ending = true;
        return;
    }
    g_string_append_len(connection->out, answer->str, (gssize)answer->len);
}

void connection_job_done(Connection *connection, Job *job)
{
    connection->busy = false;
    if (connection->fd < 0) {
        free_connection(connection);
        return;
    }
    take_answer(connection, job->answer);
    subscription_apply(&connection->subscription, &job->effects);
    if (connection->line_since > 0)
        connection->line_since = g_get_monotonic_time(); /* nothing was read meanwhile */
    take_turn(connection);
}

void connection_wake(Connection *connection)
{
    if (connection->subscription.active && !connection->ending && pending(connection) == 0)
        take_turn(connection);
}

void connection_check_time(Connection *connection, gint64 now)
{
    bool stalled = pending(connection) >= STALL_BYTES &&
                   now - connection->moved_at > STALL_SECONDS * G_USEC_PER_SEC;
    bool lingered =
        connection->lingering && now - connection->linger_since > LINGER_SECONDS * G_USEC_PER_SEC;
    if (stalled || lingered) {
        connection_close(connection);
        return;
    }
    if (is_idle(connection) && connection->line_since > 0 &&
        now - connection->line_since > LINE_SECONDS * G_USEC_PER_SEC) {
        g_autofree char *text =
            g_strdup_printf("the line was not finished within %d seconds", LINE_SECONDS);
        refuse_and_end(connection, text);
        take_turn(connection);
    }
}

void connection_stop(Connection *connection)
{
    subscription_pull(&connection->subscription,
                      registry_events(connection->control->dispatcher.registry), connection->out,
                      connection->out_sent + EVENT_BYTES);
    connection->ending = true;
    take_turn(connection);
}
