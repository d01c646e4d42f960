/* A listener as the registry knows it: a name, an address, and the socket object behind it (the
 * NBD server's, opaque here). Changed under the registry's lock. Reference-counted. */
#ifndef CORE_LISTENER_ENTRY_H
#define CORE_LISTENER_ENTRY_H

#include "daemon/core/refs.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Stored as a number in the database: never renumber. */
typedef enum {
    LISTENER_TLS_NONE = 0, /* no credential */
    LISTENER_TLS_REQUIRE = 1,
    LISTENER_TLS_ALLOW = 2,
} ListenerTls;

typedef struct {
    RefCount refs;
    char *name;
    char *requested;  /* what is listened on, as it was asked for; a port 0 has become the port */
    char *address;    /* what one connects to: "unix:/run/x", "tcp:127.0.0.1:10809" */
    char *credential; /* NULL: none */
    ListenerTls tls_mode;
    uint32_t max_clients; /* served at once; 0: no bound of its own */
    bool persistent;      /* in the store; those of --listen are not */
    char *problem;        /* it could not be opened at the start: why */
    bool changing;        /* it is being added or removed */
    gpointer socket;      /* NULL when there is a problem, or not yet one */
    unsigned clients;     /* attached now */
} ListenerEntry;

ListenerEntry *listener_entry_new(const char *name, const char *address);
ListenerEntry *listener_entry_ref(ListenerEntry *entry);
void listener_entry_unref(ListenerEntry *entry); /* takes NULL; does not touch the socket */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ListenerEntry, listener_entry_unref)

#endif
