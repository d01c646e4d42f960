/* The control plane: JSON-RPC 2.0 over a Unix stream socket, one JSON text per line.
 *
 * Lives on the main thread and its GLib main loop, where nothing blocks: requests that may wait run
 * on a bounded number of threads (an Engine of their own). Life:
 *
 *   control_start ... main loop ... control_stop ... main loop ... control_free
 *
 * A connection lives from accept until it is closed and its job, if one runs, has come back; a job
 * (the answering of one line) holds a reference and outlives the closing of its connection, then
 * drops its answer. One job at a time per connection, lines in order. A subscription lives in its
 * connection. Whoever handles a call must not outlive control_free; control_stop plus an empty
 * control_busy says that none is running. */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include "daemon/control/access.h"
#include "schema/api.h"
#include <glib.h>
#include <stdbool.h>

typedef struct Control Control;

typedef struct {
    const char *socket_path;
    const char *socket_group; /* name or number; NULL: the daemon's own */
    const AccessRules *rules; /* outlives the control plane, as do the rest */
    Registry *registry;       /* its limits and events are used too */
    const ApiMethod *methods; /* in the order of names: api_methods */
    size_t method_count;
} ControlConfig;

/* Takes the lock beside the socket, opens the socket (mode 0660) and listens on the main context.
 * A socket left behind by a dead daemon is replaced; a living one is never robbed: busy
 * (API_ERROR), with the pid of the holder. */
Control *control_start(const ControlConfig *config, GError **error);

/* No new connections, no new requests; the socket file is gone. Requests that run go on, and
 * their answers are still sent. */
void control_stop(Control *control);

/* Requests that run, or whose answers are about to be sent. */
unsigned control_busy(const Control *control);

/* Closes what is left. Waits for handlers that still run: see control_busy. Takes NULL. */
void control_free(Control *control);

#endif
