#include "daemon/nbd/tls_session.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Plain bytes in one record, and the most that encryption adds to one: with new keys ahead of it,
 * which GnuTLS sends as a record of its own where the client has asked for them. */
#define RECORD_PLAIN    16384
#define RECORD_OVERHEAD 256
#define RECORD          (RECORD_PLAIN + RECORD_OVERHEAD)

/* What is encrypted before it is sent. GnuTLS calls its push function once for every record of
 * 16 KiB; gathering sixteen of them into one send costs a copy in the cache and saves fifteen
 * system calls and wakeups of the client. Answers that fit two records do without. */
#define OUT_SMALL (2 * RECORD)
#define OUT_LARGE (16 * RECORD)
/* What one receive may bring: as for INPUT_SMALL and INPUT_LARGE, more for who fills the first. */
#define IN_SMALL (32 * 1024)
#define IN_LARGE (128 * 1024)

/* What a client may send before it has proven anything, its certificates for the most part: GnuTLS
 * (3.7) keeps a message of up to 16 MiB until it is complete. */
#define HANDSHAKE_BYTES (16 * 1024)
/* Warnings and attempts at renegotiation, each of which is read past. */
#define NOISE_MOST 32

typedef struct {
    unsigned char *data; /* NULL while it holds nothing */
    size_t size, start, end;
} Buffer;

struct TlsSession {
    gnutls_session_t session;
    TlsMaterial *material;
    PoolAccount *account;
    int fd;
    Buffer in, out;
    bool in_was_full;
    unsigned noise;
    size_t handshake_bytes;
    bool established, broken;
    bool ended;   /* nothing more will come */
    bool drained; /* the socket had nothing more when it was last asked */
};

static void buffer_release(TlsSession *tls, Buffer *buffer)
{
    pool_give(tls->account, buffer->data, buffer->size);
    *buffer = (Buffer){0};
}

/* Another block of that size, with what is in the buffer. False: it stays as it is. */
static bool buffer_resize(TlsSession *tls, Buffer *buffer, size_t size, bool base)
{
    Buffer fresh = {.end = buffer->end - buffer->start};

    fresh.data = pool_take(tls->account, size, base, &fresh.size);
    if (fresh.data == NULL) {
        return false;
    }
    if (fresh.end > 0) {
        memcpy(fresh.data, buffer->data + buffer->start, fresh.end);
    }
    buffer_release(tls, buffer);
    *buffer = fresh;
    return true;
}

/* GnuTLS hands over a record (or a part of the handshake). */
static ssize_t push(gnutls_transport_ptr_t pointer, const void *data, size_t length)
{
    TlsSession *tls = pointer;

    if (tls->out.data == NULL && !buffer_resize(tls, &tls->out, OUT_SMALL, true)) {
        gnutls_transport_set_errno(tls->session, ENOMEM);
        return -1;
    }
    if (length > tls->out.size - tls->out.end) {
        int result = tls_session_flush(tls);

        if (result < 0 || length > tls->out.size) {
            gnutls_transport_set_errno(tls->session, result < 0 ? -result : EMSGSIZE);
            return -1;
        }
    }
    memcpy(tls->out.data + tls->out.end, data, length);
    tls->out.end += length;
    return (ssize_t)length;
}

/* The end of the stream is kept from GnuTLS, which would let nothing out any more either: whoever
 * is told to stop reads no more, but answers what was read. */
static ssize_t receive(TlsSession *tls, void *data, size_t length)
{
    ssize_t got;

    do {
        got = recv(tls->fd, data, length, MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got == 0) {
        tls->ended = true;
        errno = EAGAIN;
        got = -1;
    }
    if (got < 0) {
        tls->drained = errno == EAGAIN;
        gnutls_transport_set_errno(tls->session, errno);
    }
    return got;
}

/* A receive into an empty buffer. */
static ssize_t refill(TlsSession *tls)
{
    ssize_t got;

    if (tls->in_was_full && tls->in.size < IN_LARGE) {
        buffer_resize(tls, &tls->in, IN_LARGE, false);
    }
    got = receive(tls, tls->in.data, tls->in.size);
    if (got > 0) {
        tls->in.start = 0;
        tls->in.end = (size_t)got;
        tls->in_was_full = tls->in.end == tls->in.size;
    }
    return got;
}

/* GnuTLS wants bytes. During the handshake they come straight from the socket: whoever has not
 * proven anything yet costs no buffer. So they do where the pool gives none. */
static ssize_t pull(gnutls_transport_ptr_t pointer, void *data, size_t length)
{
    TlsSession *tls = pointer;
    ssize_t got;

    if (!tls->established) {
        if (tls->handshake_bytes == HANDSHAKE_BYTES) {
            gnutls_transport_set_errno(tls->session, EMSGSIZE);
            return -1;
        }
        got = receive(tls, data, MIN(length, HANDSHAKE_BYTES - tls->handshake_bytes));
        tls->handshake_bytes += got > 0 ? (size_t)got : 0;
        return got;
    }
    if (tls->in.data == NULL && !buffer_resize(tls, &tls->in, IN_SMALL, false)) {
        return receive(tls, data, length);
    }
    if (tls->in.start == tls->in.end) {
        got = refill(tls);
        if (got < 0) {
            return got;
        }
    }
    length = MIN(length, tls->in.end - tls->in.start);
    memcpy(data, tls->in.data + tls->in.start, length);
    tls->in.start += length;
    return (ssize_t)length;
}

TlsSession *tls_session_new(int fd, TlsMaterial *material, PoolAccount *account)
{
    TlsSession *tls = calloc(1, sizeof(*tls));

    if (tls == NULL) {
        return NULL;
    }
    tls->fd = fd;
    tls->account = account;
    /* No tickets: a resumed session would not look at the list of revocations again. */
    if (gnutls_init(&tls->session, GNUTLS_SERVER | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL) < 0) {
        free(tls);
        return NULL;
    }
    tls->material = tls_material_ref(material);
    if (tls_material_use(material, tls->session) < 0) {
        tls->broken = true;
        tls_session_free(tls);
        return NULL;
    }
    gnutls_handshake_set_timeout(tls->session, 0); /* stream.c keeps the deadline */
    gnutls_transport_set_ptr(tls->session, tls);
    gnutls_transport_set_push_function(tls->session, push);
    gnutls_transport_set_pull_function(tls->session, pull);
    return tls;
}

void tls_session_free(TlsSession *tls)
{
    if (tls == NULL) {
        return;
    }
    if (tls->established && !tls->broken && gnutls_bye(tls->session, GNUTLS_SHUT_WR) == 0) {
        tls_session_flush(tls);
    }
    gnutls_deinit(tls->session);
    tls_material_unref(tls->material);
    buffer_release(tls, &tls->in);
    buffer_release(tls, &tls->out);
    free(tls);
}

/* Whether to read on behind something that is not fatal. There is a bound on that: who sends
 * nothing else would never let go of the thread, and never meet its deadline. */
static bool passes_over(TlsSession *tls, int result)
{
    return gnutls_error_is_fatal(result) == 0 && ++tls->noise < NOISE_MOST;
}

static int fail(TlsSession *tls, int result)
{
    if (result == GNUTLS_E_PREMATURE_TERMINATION || result == GNUTLS_E_PULL_ERROR ||
        result == GNUTLS_E_PUSH_ERROR) {
        tls->broken = true;
        return -EPIPE;
    }
    tls->broken = true;
    return -EPROTO;
}

int tls_session_handshake(TlsSession *tls, char **ret_why)
{
    int result;

    do {
        result = gnutls_handshake(tls->session);
    } while (result < 0 && result != GNUTLS_E_AGAIN && passes_over(tls, result));
    if (result == GNUTLS_E_AGAIN) {
        return tls->ended ? -EPIPE : -EAGAIN;
    }
    if (result < 0) {
        const char *detail = "";

        if (result == GNUTLS_E_FATAL_ALERT_RECEIVED) {
            detail = gnutls_alert_get_name(gnutls_alert_get(tls->session));
        } else if (tls->handshake_bytes == HANDSHAKE_BYTES) {
            detail = "what the client sends is too long";
        }
        *ret_why =
            g_strdup_printf("%s%s%s", gnutls_strerror(result), *detail != '\0' ? ": " : "", detail);
        gnutls_alert_send_appropriate(tls->session, result);
        tls_session_flush(tls);
        return fail(tls, result);
    }
    tls->established = true;
    return 0;
}

bool tls_session_has_more_to_say(const TlsSession *tls)
{
    return gnutls_record_get_direction(tls->session) == 1;
}

int tls_session_check(TlsSession *tls, const TlsMaterial *material, char **ret_why)
{
    int result = tls_material_check(tls->material, material, tls->session);

    if (result >= 0) {
        return 0;
    }
    *ret_why = g_strdup_printf("the credential has changed since the handshake began: %s",
                               gnutls_strerror(result));
    gnutls_alert_send_appropriate(tls->session, result);
    tls_session_flush(tls);
    return fail(tls, result);
}

char *tls_session_identity(TlsSession *tls)
{
    return tls_material_identity(tls->material, tls->session);
}

const char *tls_session_version(TlsSession *tls)
{
    return gnutls_protocol_get_name(gnutls_protocol_get_version(tls->session));
}

ssize_t tls_session_receive(TlsSession *tls, void *buffer, size_t length)
{
    if (tls->broken) {
        return -EPROTO;
    }
    tls->drained = false;
    for (;;) {
        ssize_t got = gnutls_record_recv(tls->session, buffer, length);

        if (got > 0) {
            return got;
        }
        if (got == 0) {
            tls->ended = true;
            return -EPIPE;
        }
        if (got == GNUTLS_E_AGAIN && tls->drained) {
            return tls->ended ? -EPIPE : -EAGAIN;
        }
        /* The client has new keys. What came behind them is in our buffer, of which no poll tells.
         * (GnuTLS ends the session of who changes them more than eight times in a second.) */
        if (got == GNUTLS_E_AGAIN) {
            continue;
        }
        /* A renegotiation is refused by reading on; anything else that is not fatal is a warning.
         */
        if (!passes_over(tls, (int)got)) {
            return fail(tls, (int)got);
        }
    }
}

bool tls_session_may_have_more(const TlsSession *tls)
{
    return !tls->drained;
}

bool tls_session_holds_more(const TlsSession *tls)
{
    return tls->in.start < tls->in.end || gnutls_record_check_pending(tls->session) > 0;
}

/* For one record more. A small buffer grows for who has more to say than it holds. */
static bool has_room(TlsSession *tls, size_t length)
{
    bool small = tls->out.size < OUT_LARGE;

    if (tls->out.data == NULL ? length > OUT_SMALL
                              : small && tls->out.size - tls->out.end < RECORD) {
        buffer_resize(tls, &tls->out, OUT_LARGE, false);
    }
    return tls->out.data == NULL || tls->out.size - tls->out.end >= RECORD;
}

ssize_t tls_session_put(TlsSession *tls, const void *buffer, size_t length)
{
    size_t done = 0;

    if (tls->broken) {
        return -EPROTO;
    }
    while (done < length && has_room(tls, length - done)) {
        size_t part = MIN(length - done, RECORD_PLAIN);
        ssize_t sent = gnutls_record_send(tls->session, (const char *)buffer + done, part);

        if (sent == GNUTLS_E_INTERRUPTED || sent == GNUTLS_E_AGAIN) {
            continue; /* push never answers these while there is room */
        }
        if (sent < 0) {
            return fail(tls, (int)sent);
        }
        done += (size_t)sent;
    }
    return (ssize_t)done;
}

int tls_session_flush(TlsSession *tls)
{
    while (tls->out.start < tls->out.end) {
        ssize_t sent = send(tls->fd, tls->out.data + tls->out.start, tls->out.end - tls->out.start,
                            MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0) {
            return errno == EAGAIN ? -EAGAIN : -EPIPE;
        }
        tls->out.start += (size_t)sent;
    }
    tls->out.start = tls->out.end = 0;
    return 0;
}

void tls_session_relax(TlsSession *tls)
{
    if (tls->in.start == tls->in.end) {
        buffer_release(tls, &tls->in);
        tls->in_was_full = false;
    }
    if (tls->out.start == tls->out.end) {
        buffer_release(tls, &tls->out);
    }
}
