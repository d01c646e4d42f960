/* Adding, removing and bringing back listeners: the table, the store, and the sockets, which are
 * the NBD server's and reach the core as four functions (the core includes nothing of nbd/). */
#ifndef CORE_LISTENERS_H
#define CORE_LISTENERS_H

#include "daemon/core/listener_entry.h"
#include <glib.h>
#include <stdbool.h>

typedef struct Registry Registry;

/* As in daemon/nbd/listener.h; errors are STORAGE_ERRORs. */
typedef struct {
    gpointer (*start)(gpointer server, const char *name, const char *address, GError **error);
    const char *(*address)(gpointer socket);
    void (*stop)(gpointer socket);
    bool (*check)(const char *address, GError **error);
} ListenerOps;

/* Once, before the first listener. server is handed to start. */
void listeners_set_ops(Registry *registry, const ListenerOps *ops, gpointer server);

/* Opens the socket and, if the entry is persistent, stores it. The entry (name, address, bounds)
 * is the caller's; the registry takes a reference. May block in name resolution: not on the main
 * thread once its loop runs. Errors: API_ERROR. */
bool listeners_add(Registry *registry, ListenerEntry *entry, bool dry_run, GError **error);

/* Whether an existing listener is what adding this one would make. Under the lock. */
bool listener_entry_is_same(const ListenerEntry *existing, const ListenerEntry *wanted);

/* Its clients stay. Errors: NOT_FOUND, BUSY. */
bool listeners_remove(Registry *registry, const char *name, bool dry_run, GError **error);

/* At the start: takes over an entry of the store; one whose socket cannot be opened stays, with
 * its problem (*ret_problem; g_free), so that it is seen and can be removed. */
void listeners_restore(Registry *registry, ListenerEntry *entry, char **ret_problem);

/* Tries again those that could not be opened; posts `changed` for each that can be now. May block.
 * Answers whether some are left. */
bool listeners_retry(Registry *registry);

/* At the end: no socket accepts any more; the table keeps its entries. */
void listeners_stop_all(Registry *registry);

#endif
