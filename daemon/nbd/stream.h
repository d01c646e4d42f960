/* The bytes of one connection: the only place that receives from and sends to a client's socket,
 * so that encryption has one place to go. Owned by the connection's thread; others may shut the
 * socket down (that ends every call here).
 *
 * Calls answer a count, or a negative errno: -EPIPE when the other side is gone. */
#ifndef NBD_STREAM_H
#define NBD_STREAM_H

#include "daemon/nbd/pool.h"
#include "storage/engine.h"
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct TlsSession TlsSession;
typedef struct TlsMaterial TlsMaterial;

typedef struct {
    int fd;
    PoolAccount *account; /* pays for the buffers of encryption */
    TlsSession *tls;      /* NULL: plaintext */
    EngineLane *lane;     /* of the thread, where it has one: goes on while a send waits */
    /* Set while the thread has what others wait for: called before a send waits, and lets go of it.
     * (stream_splice does not call it.) */
    void (*let_go)(void *holder);
    void *holder;
} Stream;

/* --- the handshake: exact counts, before a deadline (g_get_monotonic_time()) ---
 *
 * wake_fd: an eventfd. When it is written to, *woken is set and the deadline becomes an earlier
 * one, `woken_deadline` microseconds away: a stop that lets the client hear of it. */
typedef struct {
    gint64 deadline;
    int wake_fd;
    bool woken;
} StreamPatience;
#define STREAM_WOKEN_PATIENCE (1 * G_USEC_PER_SEC)

/* 0, -ETIMEDOUT, -EPIPE at the end of the stream. */
int stream_read_all(Stream *stream, void *buffer, size_t length, StreamPatience *patience);
int stream_write_all(Stream *stream, const void *buffer, size_t length, StreamPatience *patience);

/* The server's side of a TLS handshake: 0, and everything that follows is encrypted. When it fails
 * the connection is of no use any more; *ret_why (the caller's) is set when there is a reason to
 * tell. Either way stream_end_tls follows some time. */
int stream_start_tls(Stream *stream, TlsMaterial *material, StreamPatience *patience,
                     char **ret_why);
/* Says goodbye and frees the session, if there is one. */
void stream_end_tls(Stream *stream);

/* --- the transmission --- */

/* What is there, at least one byte; -EPIPE at the end. wait: for the socket's receive timeout at
 * most, then -EAGAIN; else -EAGAIN at once. */
ssize_t stream_receive(Stream *stream, const struct iovec *parts, int count, bool wait);
/* All of it; waits for a client that reads slowly. The parts are used up. more: other bytes follow
 * at once. */
int stream_send(Stream *stream, struct iovec *parts, int count, bool more);

/* Bytes may have been taken from the socket that stream_receive has not handed out: whoever waits
 * for the socket asks this first. */
bool stream_may_have_more(const Stream *stream);
/* Whether something has come, or the end of the stream; does not wait. */
bool stream_is_readable(const Stream *stream);

/* Until something can be sent, or the socket is shut down: no other client waits for what this one
 * does not read. */
void stream_wait_writable(Stream *stream);

/* Bytes may be spliced into it. */
bool stream_can_splice(const Stream *stream);
/* All length bytes that are in the pipe. */
int stream_splice(Stream *stream, int pipe_fd, size_t length, bool more);

#endif
