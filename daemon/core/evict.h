/* Ending clients: those that a new setting would not admit, and those of an export that goes. */
#ifndef CORE_EVICT_H
#define CORE_EVICT_H

#include "daemon/core/registry.h"

/* Under the lock: references to the clients of the export that its settings now would not admit,
 * taken in the order in which they came. */
GPtrArray *export_find_unadmitted(Export *export);

/* Without the lock: lets the clients finish what is in flight until drained, ends them hard then,
 * and waits until they are gone or `gone` has passed. Both on g_get_monotonic_time()'s scale. */
void clients_end(Registry *registry, GPtrArray *clients, gint64 drained, gint64 gone);

/* Under the lock, main thread or another, without waiting: what is in flight may finish for two
 * seconds, then the client is ended hard by the default main context. */
void client_end_soon(Client *client);

#endif
