/* The daemon as a whole: put together in one order, taken apart in the other.
 *
 * Start: store (with its lock on the state directory), control socket (with its lock), disks,
 * listeners. Stop: nothing new is admitted, clients finish what is in flight and then control
 * requests what they do (bounded), disks are marked clean, the store is closed. Both run on the
 * main thread; what a stop has to wait for it waits for on a thread of its own, so that the control
 * socket answers meanwhile. */
#ifndef DAEMON_SERVICE_H
#define DAEMON_SERVICE_H

#include "daemon/options.h"
#include <glib.h>
#include <stdbool.h>

typedef struct Service Service;

/* Everything runs once the main loop does. NULL: nothing is left of it; *error is one line. */
Service *service_start(const Options *options, GError **error);

/* Reads all credentials again, in the background; what cannot be used stays as it was. */
void service_reload(Service *service);

/* Begins to stop; done runs on the main loop when service_finish may be called. Called again while
 * clients still finish: ends them hard. */
void service_stop(Service *service, void (*done)(gpointer data), gpointer data);

/* The rest of the stop. False when something hangs that cannot be waited for: then the process has
 * to end without cleaning up. */
bool service_finish(Service *service);

#endif
