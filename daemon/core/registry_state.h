/* The inside of the registry, for the core alone (registry.c, client.c, txn*.c, config.c). */
#ifndef CORE_REGISTRY_STATE_H
#define CORE_REGISTRY_STATE_H

#include "daemon/core/client_state.h"
#include "daemon/core/listeners.h"
#include "daemon/core/registry.h"
#include <pthread.h>

struct Registry {
    /* Set when made. */
    Store *store;
    Engine *engine;
    Events *events;
    ListenerOps listener_ops;
    gpointer listener_server;
    Limits limits;
    DaemonFacts facts;

    pthread_mutex_t lock;
    pthread_mutex_t credential_lock; /* one change of credentials at a time (credentials.c) */
    pthread_cond_t clients_changed;  /* a client has closed; monotonic clock */
    pthread_cond_t claims_changed;   /* a claim was given back; monotonic clock */

    /* Under the lock. */
    GHashTable *disks;       /* name -> DiskEntry, references */
    GHashTable *exports;     /* name -> Export, references; put and dropped below alone */
    GSequence *export_order; /* the same ones, borrowed, by name: who lists them need not sort */
    GHashTable *listeners;   /* name -> ListenerEntry, references */
    GHashTable *credentials; /* name -> Credential, references */
    GHashTable *clients;     /* id -> Client, borrowed: a client takes itself out */
    GHashTable *claims;      /* "disk/NAME", "export/NAME" -> the Txn that holds it */
    uint64_t last_client;
    unsigned served;               /* clients attached to an export */
    GHashTable *served_identities; /* identity, "" for none -> how many of them; no zeroes */
    Handshakes handshakes;
    unsigned giving_way;    /* of the clients: told to end for a newcomer, and not gone yet */
    uint64_t accepted;      /* connections since the start */
    uint64_t refused;       /* of them or beside them, by a bound or a sharing mode */
    IoStats totals;         /* of the clients that have closed */
    GSource *expiry_timer;  /* NULL: there is none (expiry.h) */
    int64_t expiry_next;    /* when the next allow entry ends, at the earliest; real time */
    int64_t expiry_checked; /* up to when all that have ended are dealt with */
    bool any_expires;       /* some allow entry has an end, or has had one */
    bool stopping;
    bool disks_loaded;       /* the start is over: what changes now is an event */
    bool credentials_loaded; /* the same */
    bool groups_wanted;      /* some allow list has had a group: connections look theirs up */
};

/* --- under the lock --- */

/* Takes the reference. No other of its name is there. */
void registry_put_export(Registry *registry, Export *export);
void registry_drop_export(Registry *registry, Export *export);
/* It has other settings now, of the same name; old: those before. */
void registry_rekey_export(Registry *registry, Export *export, const ExportConfig *old);
/* The first export in order of names behind `after` (NULL: of all), or the end. */
GSequenceIter *registry_exports_behind(Registry *registry, const char *after);

/* to += from, both may be in use (relaxed). */
void io_stats_add(IoStats *to, const IoStats *from);

/* Waits on one of the conditions; false at the deadline (g_get_monotonic_time()). */
bool registry_wait(Registry *registry, pthread_cond_t *condition, gint64 deadline);

#endif
