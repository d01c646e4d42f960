#include "daemon/nbd/stream.h"
#include "daemon/nbd/stream_tls.h"
#include "daemon/nbd/tls_session.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

int stream_wait(Stream *stream, short events, StreamPatience *patience)
{
    for (;;) {
        gint64 left = patience->deadline - g_get_monotonic_time();
        if (left <= 0)
            return -ETIMEDOUT;
        struct pollfd fds[2] = {
            {.fd = stream->fd, .events = events},
            {.fd = patience->woken ? -1 : patience->wake_fd, .events = POLLIN},
        };
        int ready = poll(fds, 2, (int)MIN(left / 1000 + 1, INT32_MAX));
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (ready > 0 && fds[1].revents != 0) {
            eventfd_t ignored;
            eventfd_read(patience->wake_fd, &ignored);
            patience->woken = true;
            gint64 deadline = g_get_monotonic_time() + STREAM_WOKEN_PATIENCE;
            patience->deadline = MIN(patience->deadline, deadline);
        }
        if (ready > 0 && fds[0].revents != 0)
            return 0;
    }
}

int stream_read_all(Stream *stream, void *buffer, size_t length, StreamPatience *patience)
{
    if (stream->tls != NULL)
        return stream_tls_read_all(stream, buffer, length, patience);
    uint8_t *next = buffer;
    while (length > 0) {
        /* Waiting first: a client that has something to say all the time meets the deadline too. */
        int result = stream_wait(stream, POLLIN, patience);
        if (result < 0)
            return result;
        ssize_t n = recv(stream->fd, next, length, MSG_DONTWAIT);
        if (n == 0)
            return -EPIPE;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return -errno;
        next += n;
        length -= (size_t)n;
    }
    return 0;
}

int stream_write_all(Stream *stream, const void *buffer, size_t length, StreamPatience *patience)
{
    if (stream->tls != NULL)
        return stream_tls_write_all(stream, buffer, length, patience);
    const uint8_t *next = buffer;
    while (length > 0) {
        ssize_t n = send(stream->fd, next, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            int result = stream_wait(stream, POLLOUT, patience);
            if (result < 0)
                return result;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        next += n;
        length -= (size_t)n;
    }
    return 0;
}

ssize_t stream_receive(Stream *stream, const struct iovec *parts, int count, bool wait)
{
    if (stream->tls != NULL)
        return stream_tls_receive(stream, parts, count, wait);
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    for (;;) {
        ssize_t n = recvmsg(stream->fd, &message, wait ? 0 : MSG_DONTWAIT);
        if (n > 0)
            return n;
        if (n == 0)
            return -EPIPE;
        if (errno != EINTR)
            return -errno;
    }
}

void stream_wait_writable(Stream *stream)
{
    struct pollfd fd = {.fd = stream->fd, .events = POLLOUT};
    if (stream->let_go != NULL)
        stream->let_go(stream->holder);
    if (stream->lane != NULL)
        engine_lane_poll(stream->lane, &fd, 1, -1);
    else
        poll(&fd, 1, -1);
}

int stream_send(Stream *stream, struct iovec *parts, int count, bool more)
{
    if (stream->tls != NULL)
        return stream_tls_send(stream, parts, count, more);
    int flags = MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    if (stream->let_go != NULL || (stream->lane != NULL && engine_lane_is_busy(stream->lane)))
        flags |= MSG_DONTWAIT;
    while (count > 0) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        ssize_t n = sendmsg(stream->fd, &message, flags);
        int error = n < 0 ? errno : 0; /* what is done while it waits has errors of its own */
        if (error == EAGAIN)
            stream_wait_writable(stream);
        if (error == EINTR || error == EAGAIN)
            continue;
        if (error != 0)
            return -error;
        size_t sent = (size_t)n;
        while (count > 0 && sent >= parts->iov_len) {
            sent -= parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + sent;
            parts->iov_len -= sent;
        }
    }
    return 0;
}

bool stream_may_have_more(const Stream *stream)
{
    return stream->tls != NULL && tls_session_may_have_more(stream->tls);
}

bool stream_is_readable(const Stream *stream)
{
    struct pollfd fd = {.fd = stream->fd, .events = POLLIN};
    return stream_may_have_more(stream) || poll(&fd, 1, 0) > 0;
}

bool stream_can_splice(const Stream *stream)
{
    return stream->tls == NULL;
}

int stream_splice(Stream *stream, int pipe_fd, size_t length, bool more)
{
    while (length > 0) {
        ssize_t n = splice(pipe_fd, NULL, stream->fd, NULL, length, more ? SPLICE_F_MORE : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EPIPE;
        length -= (size_t)n;
    }
    return 0;
}
