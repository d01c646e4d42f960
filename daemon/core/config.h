/* The configuration in the store, brought back at the start, and disks closed at the end. */
#ifndef CORE_CONFIG_H
#define CORE_CONFIG_H

#include "daemon/core/registry.h"
#include <glib.h>
#include <stdbool.h>

/* Takes disks and exports from the store and opens the disks, several at once; waits until all are
 * open or the deadline. A disk that cannot be opened is `missing` and says why, one that hangs
 * stays `opening` and goes on by itself; the daemon comes up all the same. What makes no sense in
 * the store is left there and warned about. False only when the store cannot be read. */
bool config_load(Registry *registry, gint64 deadline, GError **error);

/* The credentials and the listeners of the store, after config_load; warns about those that cannot
 * be opened. For files of credentials that hang it waits until the deadline. */
bool config_load_listeners(Registry *registry, gint64 deadline, GError **error);

/* No client is left: stores the exact bits of every open disk and marks it clean. False when some
 * were not done by the deadline. */
bool config_close_disks(Registry *registry, gint64 deadline);

#endif
