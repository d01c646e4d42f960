/* Sockets on which the NBD server accepts clients, and the server that all of them share.
 *
 * Life: nbd_server_new -> nbd_listener_start... nbd_listener_stop -> the registry tells its clients
 * to stop -> nbd_server_wait -> nbd_server_free. Accepting happens on the default GLib main
 * context; every connection then has a thread of its own. */
#ifndef NBD_LISTENER_H
#define NBD_LISTENER_H

#include "daemon/core/client.h"
#include <glib.h>

typedef struct NbdServer NbdServer;
typedef struct NbdListener NbdListener;

/* The limits are registry_limits(registry). Never NULL. The registry outlives the server. */
NbdServer *nbd_server_new(Registry *registry);
/* Waits until every connection thread has ended: true, or false at the deadline
 * (g_get_monotonic_time()). Blocks: not while the main loop is needed. Whoever stops the daemon
 * first stops the listeners and then lets the registry stop its clients (drain, later hard). */
bool nbd_server_wait(NbdServer *server, gint64 deadline);
/* No listener and no connection is left. Takes NULL. */
void nbd_server_free(NbdServer *server);

typedef struct {
    const char *name;    /* clients are reported under it */
    const char *address; /* "unix:PATH", "tcp:HOST:PORT", "tcp:[V6]:PORT"; see address.h */
} NbdListenerOptions;

/* Resolves, binds and listens; clients are accepted as soon as the main loop runs. Blocks (name
 * resolution): any thread but the main one once the loop runs. The options are not kept.
 * Errors are STORAGE_ERRORs: INVALID (the address can never be right: says what is), EXISTS
 * (somebody listens there), IO. A Unix socket file that nobody listens on is replaced; anything
 * else in its place is left alone. Port 0 takes a free port. */
NbdListener *nbd_listener_start(NbdServer *server, const NbdListenerOptions *options,
                                GError **error);
/* What one connects to: the address with the real port, an absolute path. */
const char *nbd_listener_address(const NbdListener *listener);
/* Accepts no more (when it returns nothing more is accepted), removes the socket file, frees.
 * Connected clients stay. Any thread; does not block. Takes NULL. */
void nbd_listener_stop(NbdListener *listener);

/* Whether an address could be listened on, without trying: what listener.add with dry_run checks.
 * Does not block. */
bool nbd_address_check(const char *address, GError **error);

#endif
