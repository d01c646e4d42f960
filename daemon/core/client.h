/* A client: one NBD connection as the rest of the daemon sees it, from accept to close.
 *
 * Made by the listener that accepted it; used by its connection thread; listed, counted and ended
 * by others. Nothing here blocks on a disk or a socket. Reference-counted.
 *
 * Life: client_new -> client_add_identity... -> client_attach (0 or 1 times) -> client_closed. */
#ifndef CORE_CLIENT_H
#define CORE_CLIENT_H

#include "daemon/core/limits.h"
#include "daemon/core/throttle.h"
#include "daemon/core/tls_material.h"
#include "storage/disk.h"
#include "storage/engine.h"
#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Registry Registry;
typedef struct Client Client;

/* How a connection is to end. */
typedef enum {
    CLIENT_STOP_DRAIN, /* read no more, finish and answer what was read, close */
    CLIENT_STOP_HARD,  /* close at once; what is in flight finishes on the disk, unanswered */
} ClientStop;

/* Runs with the registry's lock held, on any thread, any number of times, until client_closed has
 * returned: it only shuts the socket down and sets flags. */
typedef void (*ClientStopFunction)(gpointer connection, ClientStop how);

/* listener_name: its name; address: the peer ("tcp:192.0.2.1:1234", or the listener's address for
 * a Unix socket); identity: what the socket tells of it ("unix:1000", "ip:192.0.2.1"), NULL when it
 * tells nothing. Where as many are in the handshake as may be, one of them gives way (see
 * handshakes.h). NULL with ret_text set when it cannot be taken. */
Client *client_new(Registry *registry, const char *listener_name, const char *address,
                   const char *identity, ClientStopFunction stop, gpointer connection,
                   char **ret_text);
/* Ends up to `most` connections that sit in the handshake: something is short. How many. */
unsigned clients_make_way(Registry *registry, unsigned most);
Client *client_ref(Client *client);
void client_unref(Client *client);

/* "x509:CN=alice,O=Acme", "psk:bob": it has proven that, and strangers do not drive it out any more
 * (see handshakes.h). Before client_attach, by the connection's thread or before that starts. */
void client_add_identity(Client *client, const char *identity);
/* The connection has passed STARTTLS, by this material, as this (NULL: nobody in particular).
 * False, with nothing changed: other material is in force by now, and the client must pass that,
 * too. So who reloads a credential and then disconnects an identity has got rid of it. */
bool client_enter_tls(Client *client, const TlsMaterial *material, const char *identity);

/* Gives back the export and its slot and drops out of the lists. Once, last, with nothing in
 * flight; the caller's reference stays its own. */
void client_closed(Client *client);

/* --- what the handshake asks (the connection's own thread; the user database may be asked) --- */

typedef enum {
    ADMIT_OK,
    ADMIT_UNKNOWN,      /* no such export, or not for this identity: the same answer */
    ADMIT_TLS_REQUIRED, /* the export wants TLS, and this listener could start it */
    ADMIT_POLICY,       /* full under its sharing mode, or being removed: ret_text says which */
    ADMIT_SHUTDOWN,     /* the daemon is stopping */
    ADMIT_BUSY,         /* the exclusive export has a client, and this one may wait for it */
} Admission;

typedef struct {
    char *name;
    char *description; /* NULL: none */
    uint64_t size;     /* bytes, exact */
    bool read_only;    /* for this client */
    bool multi_conn;
    bool rotational, can_trim, can_fast_zero;
    uint32_t minimum_block, preferred_block, maximum_block;
    GPtrArray *bitmaps; /* of Bitmap references this export offers now, in order of names */
    Disk *disk;         /* a reference */
} ExportView;

void export_view_clear(ExportView *view);

/* The exports this client may see, for NBD_OPT_LIST, in order of names from the first one behind
 * `after` (NULL: from the first): "NAME\0DESCRIPTION\0" for each, until that is `bytes` or more.
 * Empty: there are no more. In pages, since a client that does not read would otherwise hold memory
 * for all of them before anybody knows who it is. NULL during shutdown. */
GString *client_list_exports(Client *client, const char *after, size_t bytes);

/* What an export would be for this client; takes no slot, so never ADMIT_POLICY for fullness. */
Admission client_peek(Client *client, const char *export_name, ExportView *ret_view,
                      char **ret_text);
/* Takes a slot of the export; view->disk may be used until client_closed.
 *
 * ADMIT_BUSY: there is none now, but the client has a place among those who wait. It asks again
 * when it is woken (client_set_wake), and at the latest at client_ask_again; when it does not want
 * to any longer it calls client_stop_waiting. Any other answer has ended its waiting too. */
Admission client_attach(Client *client, const char *export_name, ExportView *ret_view,
                        char **ret_text);

/* wake runs with the registry's lock held, on any thread, only while the client waits. Before the
 * first client_attach. */
typedef void (*ClientWakeFunction)(gpointer connection);
void client_set_wake(Client *client, ClientWakeFunction wake);
/* On g_get_monotonic_time()'s scale; G_MAXINT64: not before it is woken. */
gint64 client_ask_again(Client *client);
/* Gives its place up; what to tell the client (g_free). Also when it has none. */
char *client_stop_waiting(Client *client);
/* It has been told to end. */
bool client_is_stopping(Client *client);

/* --- what the transmission reports (relaxed atomics: any thread of the connection) --- */

typedef enum {
    OP_READ,
    OP_WRITE,
    OP_ZERO,
    OP_TRIM,
    OP_FLUSH,
    OP_STATUS,
    OP_CACHE,
    OP_COUNT
} OpKind;

#define LATENCY_BUCKETS 32 /* bucket i: [2^i, 2^(i+1)) microseconds; the last takes the rest */

typedef struct {
    _Atomic uint64_t requests[OP_COUNT];
    _Atomic uint64_t bytes[OP_COUNT];
    _Atomic uint64_t errors[OP_COUNT];
    _Atomic uint64_t latency[OP_COUNT][LATENCY_BUCKETS];
    _Atomic uint32_t in_flight;
} IoStats;

/* The client's own; folded into its export's and the daemon's when it closes. Memory for the
 * latency table is part of the client: keep OP_COUNT x LATENCY_BUCKETS small. */
IoStats *client_stats(Client *client);

/* For client.list. Features are names: "structured-replies", "extended-headers", "tls",
 * "base:allocation", "qemu:dirty-bitmap:b0"... Replaces what was set before. */
void client_set_features(Client *client, const char *const *features);

/* What STARTTLS uses: a reference to the material in force for the listener's credential. NULL: the
 * listener has none, or it cannot be used. */
TlsMaterial *client_tls_material(Client *client);
/* Its TLS handshake has failed: counted, and told as an event. why may be NULL. */
void client_tls_failed(Client *client, const char *why);
/* What the listener asks of clients. */
typedef enum { CLIENT_TLS_NONE, CLIENT_TLS_ALLOW, CLIENT_TLS_REQUIRE } ClientTls;
ClientTls client_tls_mode(Client *client);

/* What limits its export, once it is attached; until client_closed. */
Throttle *client_throttle(Client *client);
/* The I/O engine all connections share. */
Engine *client_engine(Client *client);
/* The bounds of the daemon (limits.h); they never change. */
const Limits *client_limits(Client *client);
uint64_t client_id(const Client *client);

#endif
