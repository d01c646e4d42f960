/* Entries of allow lists that end: at that moment the clients that they, and nothing else in the
 * list, admitted are ended as an eviction would, and an event tells of it. */
#ifndef CORE_EXPIRY_H
#define CORE_EXPIRY_H

#include "daemon/core/registry.h"

/* From now on a timer of the default main context does it; expiry_stop takes it away. Main thread.
 */
void expiry_start(Registry *registry);
void expiry_stop(Registry *registry);

/* Under the lock, whenever an export gets a list (NULL: everyone). Any thread. */
void expiry_note(Registry *registry, const AllowList *list);

/* What the timer does, as of now (microseconds since 1970); main thread. */
void expiry_run(Registry *registry, int64_t now);

#endif
