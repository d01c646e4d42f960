/* The inside of a client, for the core itself and for methods/client.c, which renders it.
 * All of it is read and written under the registry's lock, but for `stats` (atomics). */
#ifndef CORE_CLIENT_STATE_H
#define CORE_CLIENT_STATE_H

#include "daemon/core/client.h"
#include "daemon/core/export.h"
#include "daemon/core/handshakes.h"
#include "daemon/core/listener_entry.h"
#include "daemon/core/refs.h"

/* What INFO promised: GO answers the same or fails (specification, NBD_OPT_GO). */
typedef struct {
    char *export_name;
    Export *export; /* compared, never followed: not a reference */
    uint64_t size;
    bool read_only, multi_conn;
} ClientPromise;

#define CLIENT_MAX_PROMISES   16
#define CLIENT_MAX_IDENTITIES 16

struct Client {
    RefCount refs;
    Registry *registry;
    uint64_t id;
    int64_t connected_at; /* microseconds since 1970 */
    ListenerEntry *listener;
    char *address;
    ClientStopFunction stop; /* NULL once the client is closed */
    gpointer connection;
    HandshakePlace place;
    bool gave_way; /* told to end for the sake of a newcomer */
    bool stopping; /* it has been told to end */
    bool tls;
    bool groups_resolved;
    GPtrArray *identities; /* of AllowIdentity */
    char **features;
    GArray *promises;        /* of ClientPromise; NULL until the first */
    Export *export;          /* a reference; NULL in the handshake */
    Export *waiting_for;     /* it is among the export's waiters, who leave before that goes */
    ClientWakeFunction wake; /* how it hears that it may ask again */
    gint64 ask_again;        /* monotonic; G_MAXINT64: when it is woken */
    gint64 replaced_at;      /* monotonic: when a newer connection took its place; 0: none has */
    bool read_only;          /* its view */
    IoStats stats;
};

/* Whether a setting would admit a client beside those admitted so far. */
typedef struct {
    unsigned clients, writers;
    unsigned of_identity;    /* of clients: those of the same identity */
    unsigned waiting;        /* for an exclusive export, before this one */
    uint32_t identity_limit; /* where the export has none; 0: none */
} Admitted;

/* The one place where sharing modes, allow lists and bounds decide. right: what the identities may
 * do; want_read_only: a promise to keep, or a client that is connected so. ADMIT_OK sets
 * *ret_read_only; ADMIT_POLICY and ADMIT_BUSY set *ret_text (if not NULL). BUSY: an exclusive
 * export is taken; on_busy is not looked at. */
Admission export_admit(const ExportConfig *config, const Admitted *admitted, AllowRight right,
                       bool tls, bool listener_has_tls, bool want_read_only, bool *ret_read_only,
                       char **ret_text);

/* CAN_MULTI_CONN: true only where a second connection of the same client would be admitted and
 * coherent. identity_limit: as in Admitted. */
bool export_multi_conn(const ExportConfig *config, bool read_only, uint32_t identity_limit);

/* What says best who it is (allow_identity_best); NULL: nothing does. The client's. */
const char *client_identity(const Client *client);
/* How many clients of its identity are served, at all exports together; and one more or less. */
unsigned client_count_alike(const Client *client);
void client_add_alike(const Client *client, int difference);

/* --- waiting for an exclusive export (client_queue.c); all under the lock --- */

/* How many wait there before the client, or would. */
unsigned export_count_waiting(const Export *export, const Client *client);
/* The export is taken: by its on_busy the client gets a place among those who wait (ADMIT_BUSY),
 * and the older connections of its identity end; or ADMIT_POLICY, and *ret_text. */
Admission client_wait_for(Client *client, Export *export, char **ret_text);
/* Gives its place up, if it has one; the next one is woken. */
void client_leave_queue(Client *client);
/* A slot is free: the first one is to ask again. The setting has changed: everybody. */
void export_wake_first(Export *export);
void export_wake_all(Export *export);
/* The export goes: nobody waits for it any longer, and everybody is to ask again. */
void export_dismiss_waiters(Export *export);

/* Tells the connection; under the lock. */
void client_stop(Client *client, ClientStop how);

#endif
