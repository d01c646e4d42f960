/* The registry: the disks, exports, listeners and clients of the daemon, behind one mutex.
 *
 * The mutex is held for look-ups and swaps of pointers only: never across a call that can block on
 * a disk, a socket, the store or another lock than those below it. Lock order:
 *     registry  >  a client's stop function (connection)  >  events
 *     registry  >  a disk's and a bitmap's own locks, for their properties
 *
 * Configuration (disks, exports) is changed by transactions alone (txn.h), which claim what they
 * touch; so what a transaction has checked stays true until it commits. Clients come and go at any
 * time (client.h). Readers lock, read the structures below, and unlock; to use an entry after
 * that, they take a reference. Listeners are changed by listeners.h alone. */
#ifndef CORE_REGISTRY_H
#define CORE_REGISTRY_H

#include "daemon/core/client.h"
#include "daemon/core/credential.h"
#include "daemon/core/disk_entry.h"
#include "daemon/core/events.h"
#include "daemon/core/export.h"
#include "daemon/core/limits.h"
#include "daemon/core/listener_entry.h"
#include "storage/engine.h"
#include "storage/store.h"
#include <glib.h>

/* What daemon.info tells beside the limits and counts; set before the registry is made. */
typedef struct {
    char *state_dir, *socket;
    int64_t started_at;        /* microseconds since 1970 */
    int64_t started_monotonic; /* g_get_monotonic_time() */
} DaemonFacts;

/* Takes copies of limits and facts. store and engine stay the caller's and outlive it. */
Registry *registry_new(Store *store, Engine *engine, const Limits *limits,
                       const DaemonFacts *facts);
/* All clients are closed and all threads that used it have ended. */
void registry_free(Registry *registry);

/* Never change: no lock needed. */
Store *registry_store(Registry *registry);
Engine *registry_engine(Registry *registry);
Events *registry_events(Registry *registry);
const Limits *registry_limits(Registry *registry);
const DaemonFacts *registry_facts(Registry *registry);

void registry_lock(Registry *registry);
void registry_unlock(Registry *registry);

/* --- under the lock; what is answered is the registry's until unlock --- */

DiskEntry *registry_find_disk(Registry *registry, const char *name);
Export *registry_find_export(Registry *registry, const char *name);
ListenerEntry *registry_find_listener(Registry *registry, const char *name);
Client *registry_find_client(Registry *registry, uint64_t id);
Credential *registry_find_credential(Registry *registry, const char *name);
/* The ready or opening disk with this identity, or NULL. */
DiskEntry *registry_find_identity(Registry *registry, const BackendIdentity *identity);

/* Arrays of borrowed pointers in the order of names (clients: of ids); free the array with
 * g_ptr_array_unref. */
GPtrArray *registry_list_disks(Registry *registry);
GPtrArray *registry_list_exports(Registry *registry);
GPtrArray *registry_list_exports_of(Registry *registry, const char *disk);
GPtrArray *registry_list_listeners(Registry *registry);
GPtrArray *registry_list_credentials(Registry *registry);
GPtrArray *registry_list_clients(Registry *registry);

/* The counters of the daemon: those of clients that have closed, and of the export and the daemon
 * with the connected ones added. ret_stats is overwritten. */
void registry_sum_daemon(Registry *registry, IoStats *ret_stats);
void registry_sum_export(Registry *registry, Export *export, IoStats *ret_stats);

typedef struct {
    unsigned disks, exports, bitmaps, listeners;
    unsigned clients;    /* attached to an export */
    unsigned handshakes; /* not yet */
    uint64_t accepted;   /* connections since the start */
    uint64_t refused;    /* refused by a bound or a sharing mode since the start */
} RegistryCounts;
void registry_count(Registry *registry, RegistryCounts *ret_counts);

/* --- without the lock --- */

/* Tells clients of an export (NULL: all, also those in the handshake) to end. */
void registry_stop_clients(Registry *registry, Export *export, ClientStop how);
/* Waits until the export (NULL: any export) has no clients; false at the deadline. */
bool registry_wait_clients(Registry *registry, Export *export, gint64 deadline);
/* From now on every admission answers ADMIT_SHUTDOWN. */
void registry_begin_shutdown(Registry *registry);
bool registry_is_stopping(Registry *registry);

#endif
