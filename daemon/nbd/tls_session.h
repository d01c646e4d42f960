/* TLS on a connected socket: records in, records out, many of them per system call.
 *
 * Owned by the connection's thread. Nothing here waits: calls answer -EAGAIN where the socket must
 * become readable (receive, handshake) or writable (flush) first; stream.c does the waiting. The
 * session keeps a reference to the material it began with.
 *
 * Memory: a small buffer to send from, which the bound on connections bounds, and beyond that what
 * the pool gives; both are given back when nothing is in them and the connection goes idle. */
#ifndef NBD_TLS_SESSION_H
#define NBD_TLS_SESSION_H

#include "daemon/core/tls_material.h"
#include "daemon/nbd/pool.h"
#include <stdbool.h>
#include <sys/types.h>

typedef struct TlsSession TlsSession;

/* NULL when memory is short. The socket and the account stay the caller's. */
TlsSession *tls_session_new(int fd, TlsMaterial *material, PoolAccount *account);
/* Says goodbye as far as that does not wait. Takes NULL. */
void tls_session_free(TlsSession *session);

/* 0: done. -EAGAIN: flush, then wait for the socket to be readable. -EPROTO: failed, ret_why (the
 * caller's) says how; -EPIPE: the other side is gone. */
int tls_session_handshake(TlsSession *session, char **ret_why);
/* After -EAGAIN: it was for want of room to send, not of something to read. */
bool tls_session_has_more_to_say(const TlsSession *session);
/* After the handshake: who the client is ("x509:...", "psk:..."), or NULL. */
char *tls_session_identity(TlsSession *session);
/* After the handshake: 0 when the client passes this material, too. -EPROTO: it has been told that
 * it does not, and ret_why (the caller's) says why. */
int tls_session_check(TlsSession *session, const TlsMaterial *material, char **ret_why);
/* "TLS1.3", for client.list. Static. */
const char *tls_session_version(TlsSession *session);

/* Decrypted bytes, at least one. -EAGAIN, -EPIPE at the end, -EPROTO. */
ssize_t tls_session_receive(TlsSession *session, void *buffer, size_t length);
/* There may be bytes that were taken from the socket already: whoever waits for it to become
 * readable asks this first. False after a receive that answered -EAGAIN. */
bool tls_session_may_have_more(const TlsSession *session);

/* Bytes have been taken from the socket that are not handed out: at least a part of a record. */
bool tls_session_holds_more(const TlsSession *session);

/* Encrypts as much as the output buffer has room for and answers how much that was; 0: flush
 * first. -EPROTO when the session is broken. */
ssize_t tls_session_put(TlsSession *session, const void *buffer, size_t length);
/* Sends what was put. 0: all of it. -EAGAIN, or -EPIPE. */
int tls_session_flush(TlsSession *session);
/* Gives buffers back that hold nothing: the connection goes idle. */
void tls_session_relax(TlsSession *session);

#endif
