#include "daemon/nbd/stream_tls.h"
#include "daemon/nbd/tls_session.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* patience NULL: for as long as it takes, to send. A socket that was shut down is ready for
 * everything. */
static int wait_for(Stream *stream, short events, StreamPatience *patience)
{
    if (patience != NULL) {
        return stream_wait(stream, events, patience);
    }
    stream_wait_writable(stream);
    return 0;
}

static int flush(Stream *stream, StreamPatience *patience)
{
    for (;;) {
        int result = tls_session_flush(stream->tls);

        if (result != -EAGAIN) {
            return result;
        }
        result = wait_for(stream, POLLOUT, patience);
        if (result < 0) {
            return result;
        }
    }
}

int stream_start_tls(Stream *stream, TlsMaterial *material, StreamPatience *patience,
                     char **ret_why)
{
    stream->tls = tls_session_new(stream->fd, material, stream->account);
    if (stream->tls == NULL) {
        return -ENOMEM;
    }
    for (;;) {
        int result = tls_session_handshake(stream->tls, ret_why);
        int flushed;

        if (result < 0 && result != -EAGAIN) {
            return result;
        }
        flushed = flush(stream, patience);
        tls_session_relax(stream->tls);
        if (flushed < 0 || result == 0) {
            return flushed;
        }
        if (tls_session_has_more_to_say(stream->tls)) {
            continue; /* there was no room for all of it */
        }
        result = wait_for(stream, POLLIN, patience);
        if (result < 0) {
            return result;
        }
    }
}

void stream_end_tls(Stream *stream)
{
    tls_session_free(stream->tls);
    stream->tls = NULL;
}

int stream_tls_read_all(Stream *stream, void *buffer, size_t length, StreamPatience *patience)
{
    char *next = buffer;

    while (length > 0) {
        ssize_t got;

        /* A client that has something to say all the time meets the deadline too. */
        if (g_get_monotonic_time() > patience->deadline) {
            return -ETIMEDOUT;
        }
        got = tls_session_receive(stream->tls, next, length);
        if (got == -EAGAIN) {
            int result = wait_for(stream, POLLIN, patience);

            if (result < 0) {
                return result;
            }
            continue;
        }
        if (got < 0) {
            return (int)got;
        }
        next += got;
        length -= (size_t)got;
    }
    return 0;
}

/* Puts all of it; what does not fit is sent on the way. */
static int put(Stream *stream, const void *buffer, size_t length, StreamPatience *patience)
{
    const char *next = buffer;

    while (length > 0) {
        ssize_t taken = tls_session_put(stream->tls, next, length);

        if (taken < 0) {
            return (int)taken;
        }
        next += taken;
        length -= (size_t)taken;
        if (length > 0) {
            int result = flush(stream, patience);

            if (result < 0) {
                return result;
            }
        }
    }
    return 0;
}

int stream_tls_write_all(Stream *stream, const void *buffer, size_t length,
                         StreamPatience *patience)
{
    int result = put(stream, buffer, length, patience);

    return result < 0 ? result : flush(stream, patience);
}

/* As many records as are at hand: a client puts each request into one of its own, and they are to
 * be answered together. What goes wrong behind the first one is met again by the next call. */
static ssize_t receive_records(TlsSession *tls, const struct iovec *parts, int count)
{
    ssize_t total = 0;

    for (int i = 0; i < count; i++) {
        size_t done = 0;

        while (done < parts[i].iov_len) {
            ssize_t got;

            if (total > 0 && !tls_session_holds_more(tls)) {
                return total;
            }
            got =
                tls_session_receive(tls, (char *)parts[i].iov_base + done, parts[i].iov_len - done);
            if (got < 0) {
                return total > 0 ? total : got;
            }
            done += (size_t)got;
            total += got;
        }
    }
    return total;
}

ssize_t stream_tls_receive(Stream *stream, const struct iovec *parts, int count, bool wait)
{
    ssize_t got = receive_records(stream->tls, parts, count);
    struct pollfd fd = {.fd = stream->fd, .events = POLLIN};
    struct timeval patience;
    socklen_t size = sizeof(patience);

    if (got != -EAGAIN || !wait) {
        return got;
    }
    if (getsockopt(stream->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, &size) != 0) {
        return -errno;
    }
    /* Like the socket's own timeout: 0 is none. */
    poll(&fd, 1,
         patience.tv_sec == 0 && patience.tv_usec == 0
             ? -1
             : (int)(patience.tv_sec * 1000 + patience.tv_usec / 1000));
    if (fd.revents == 0) {
        tls_session_relax(stream->tls);
        return -EAGAIN;
    }
    return receive_records(stream->tls, parts, count);
}

int stream_tls_send(Stream *stream, struct iovec *parts, int count, bool more)
{
    for (int i = 0; i < count; i++) {
        int result = put(stream, parts[i].iov_base, parts[i].iov_len, NULL);

        if (result < 0) {
            return result;
        }
    }
    return more ? 0 : flush(stream, NULL);
}
