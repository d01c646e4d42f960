/* The inside of a client, for the core itself and for methods/client.c, which renders it.
 * All of it is read and written under the registry's lock, but for `stats` (atomics). */
#ifndef CORE_CLIENT_STATE_H
#define CORE_CLIENT_STATE_H

#include "daemon/core/client.h"
#include "daemon/core/export.h"
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
    bool stopping; /* it has been told to end */
    bool tls;
    bool groups_resolved;
    GPtrArray *identities; /* of AllowIdentity */
    char **features;
    GArray *promises; /* of ClientPromise; NULL until the first */
    Export *export;   /* a reference; NULL in the handshake */
    bool read_only;   /* its view */
    IoStats stats;
};

/* Whether a setting would admit a client beside those admitted so far. */
typedef struct {
    unsigned clients, writers;
} Admitted;

/* The one place where sharing modes, allow lists and bounds decide. right: what the identities may
 * do; want_read_only: a promise to keep, or a client that is connected so. ADMIT_OK sets
 * *ret_read_only; ADMIT_POLICY sets *ret_text (if not NULL). */
Admission export_admit(const ExportConfig *config, const Admitted *admitted, AllowRight right,
                       bool tls, bool listener_has_tls, bool want_read_only, bool *ret_read_only,
                       char **ret_text);

/* CAN_MULTI_CONN: true only where a second connection would be admitted and coherent. */
bool export_multi_conn(const ExportConfig *config, bool read_only);

/* Tells the connection; under the lock. */
void client_stop(Client *client, ClientStop how);

#endif
