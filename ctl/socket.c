#include "ctl/socket.h"
#include "ctl/errors.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 256 * 1024 * 1024, /* far above the longest answer nbdd gives (they page) */
    READ_BYTES = 128 * 1024,
    PATIENCE_MS = 5000, /* after this long a person is told that we still wait */
    RETRY_MS = 20,
};

static const char system_socket[] = "/run/nbdd/control.sock";

struct Socket {
    int fd;
    char *path;
    double timeout_seconds;
    GString *buffer;  /* what was received */
    size_t line_used; /* bytes at its head that the last line took */
    bool impatient;   /* the note about waiting was given */
};

char *socket_path(const char *given)
{
    const char *path = given != NULL ? given : g_getenv("NBDD_SOCKET");
    if (path != NULL && *path != 0)
        return g_strdup(path);
    if (geteuid() == 0)
        return g_strdup(system_socket);
    /* What GLib answers without XDG_RUNTIME_DIR is its cache folder, which is no place for us. */
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    if (runtime != NULL && *runtime != 0)
        return g_build_filename(runtime, "nbdd", "control.sock", NULL);
    return g_strdup_printf("/run/user/%u/nbdd/control.sock", (unsigned)geteuid());
}

/* --- waiting --- */

static int64_t deadline_of(const Socket *self)
{
    return self->timeout_seconds == 0
               ? INT64_MAX
               : g_get_monotonic_time() + (int64_t)(self->timeout_seconds * 1e6);
}

static bool fail_timeout(const Socket *self, const char *what, GError **error)
{
    ctl_fail(error, CTL_TIMEOUT, "%s on %s within %g s (--timeout)", what, self->path,
             self->timeout_seconds);
    return false;
}

static void tell_waiting(Socket *self)
{
    if (!self->impatient && isatty(STDERR_FILENO))
        g_printerr("nbdctl: still waiting for an answer on %s (Ctrl-C gives up; --timeout bounds "
                   "the wait)\n",
                   self->path);
    self->impatient = true;
}

/* False at the deadline, without an error. */
static bool wait_for(Socket *self, short events, int64_t deadline)
{
    int64_t patience = g_get_monotonic_time() + PATIENCE_MS * 1000;
    for (;;) {
        int64_t now = g_get_monotonic_time();
        if (now >= deadline)
            return false;
        int64_t until = MIN(deadline, self->impatient ? INT64_MAX : patience);
        int wait_ms = until == INT64_MAX ? -1 : (int)MIN((until - now + 999) / 1000, 1000000);
        struct pollfd fd = {.fd = self->fd, .events = events};
        if (poll(&fd, 1, MAX(wait_ms, -1)) > 0)
            return true;
        if (g_get_monotonic_time() >= patience)
            tell_waiting(self);
    }
}

/* --- connecting --- */

static const char *advice(const char *path, int code)
{
    switch (code) {
    case ENOENT:
        if (strcmp(path, system_socket) != 0 && access(system_socket, F_OK) == 0)
            return "There is one at /run/nbdd/control.sock: try --socket /run/nbdd/control.sock.";
        return "Is nbdd running? Start it, or name its socket with --socket PATH or NBDD_SOCKET.";
    case ECONNREFUSED:
        return "Nothing listens there: nbdd was killed or has stopped. Start it again.";
    case EACCES:
    case EPERM:
        return "Ask for access: the socket's group may connect (nbdd --socket-group), and so may "
               "root.";
    default:
        return "Is this nbdd's socket? Name it with --socket PATH or NBDD_SOCKET.";
    }
}

static bool fail_connect(const char *path, int code, GError **error)
{
    ctl_fail(error, CTL_UNREACHABLE, "no daemon reached on %s: %s (%s)\n%s", path, g_strerror(code),
             strerrorname_np(code), advice(path, code));
    return false;
}

/* A listener whose queue is full answers EAGAIN, and poll cannot tell when that is over. */
static bool connect_within(Socket *self, const struct sockaddr_un *address, GError **error)
{
    int64_t deadline = deadline_of(self);
    int64_t patience = g_get_monotonic_time() + PATIENCE_MS * 1000;
    while (connect(self->fd, (const struct sockaddr *)address, sizeof *address) != 0) {
        if (errno != EAGAIN && errno != EINTR)
            return fail_connect(self->path, errno, error);
        if (g_get_monotonic_time() >= deadline)
            return fail_timeout(self, "the daemon does not take connections", error);
        if (g_get_monotonic_time() >= patience)
            tell_waiting(self);
        g_usleep(RETRY_MS * 1000);
    }
    return true;
}

Socket *socket_connect(const char *path, double timeout_seconds, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        ctl_fail(error, CTL_UNREACHABLE,
                 "no daemon reached on %s: the path is too long for a socket (%zu bytes at most)",
                 path, sizeof address.sun_path - 1);
        return NULL;
    }
    memcpy(address.sun_path, path, strlen(path));
    g_autoptr(Socket) self = g_new0(Socket, 1);
    self->path = g_strdup(path);
    self->timeout_seconds = timeout_seconds;
    self->buffer = g_string_new(NULL);
    self->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (self->fd < 0) {
        fail_connect(path, errno, error);
        return NULL;
    }
    return connect_within(self, &address, error) ? g_steal_pointer(&self) : NULL;
}

void socket_close(Socket *self)
{
    if (self == NULL)
        return;
    if (self->fd >= 0)
        close(self->fd);
    g_free(self->path);
    g_string_free(self->buffer, TRUE);
    g_free(self);
}

const char *socket_name(const Socket *self)
{
    return self->path;
}

/* --- lines --- */

bool socket_send(Socket *self, const char *text, GError **error)
{
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    size_t length = strlen(line), sent = 0;
    int64_t deadline = deadline_of(self);
    while (sent < length) {
        ssize_t n = send(self->fd, line + sent, length - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += (size_t)n;
        } else if (errno == EAGAIN) {
            if (!wait_for(self, POLLOUT, deadline))
                return fail_timeout(self, "the daemon does not take the request", error);
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return true; /* it may have said why before it closed: the answer tells */
        } else if (errno != EINTR) {
            ctl_fail(error, CTL_UNREACHABLE, "cannot send to %s: %s", self->path,
                     g_strerror(errno));
            return false;
        }
    }
    return true;
}

/* Reads once, without waiting. False with an error at the end of the stream or when it failed. */
static bool receive_more(Socket *self, GError **error)
{
    if (self->buffer->len >= LINE_MAX_BYTES) {
        ctl_fail(error, CTL_UNREACHABLE, "what answers on %s sends a line without an end",
                 self->path);
        return false;
    }
    size_t old = self->buffer->len;
    g_string_set_size(self->buffer, old + READ_BYTES);
    ssize_t n = recv(self->fd, self->buffer->str + old, READ_BYTES, 0);
    int code = errno;
    g_string_set_size(self->buffer, n > 0 ? old + (size_t)n : old);
    if (n > 0 || (n < 0 && (code == EAGAIN || code == EINTR)))
        return true;
    if (n == 0 || code == ECONNRESET)
        ctl_fail(error, CTL_UNREACHABLE, "the daemon closed the connection on %s%s", self->path,
                 old > 0 ? " in the middle of a line" : "");
    else
        ctl_fail(error, CTL_UNREACHABLE, "cannot receive from %s: %s", self->path,
                 g_strerror(code));
    return false;
}

const char *socket_receive(Socket *self, size_t *ret_length, GError **error)
{
    g_string_erase(self->buffer, 0, (gssize)self->line_used);
    self->line_used = 0;
    int64_t deadline = deadline_of(self);
    size_t searched = 0;
    for (;;) {
        char *end = memchr(self->buffer->str + searched, '\n', self->buffer->len - searched);
        if (end != NULL) {
            *end = 0;
            *ret_length = (size_t)(end - self->buffer->str);
            self->line_used = *ret_length + 1;
            return self->buffer->str;
        }
        searched = self->buffer->len;
        if (!wait_for(self, POLLIN, deadline)) {
            fail_timeout(self, "no answer", error);
            return NULL;
        }
        if (!receive_more(self, error))
            return NULL;
    }
}

bool socket_wait(Socket *self, int watched_fd, GError **error)
{
    const char *rest = self->buffer->str + self->line_used;
    while (memchr(rest, '\n', self->buffer->len - self->line_used) == NULL) {
        struct pollfd fds[] = {{.fd = self->fd, .events = POLLIN}, {.fd = watched_fd}};
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0)
            continue; /* EINTR */
        if (fds[1].revents & (POLLERR | POLLNVAL))
            return false;
        if (fds[0].revents != 0)
            return true;
    }
    return true;
}
