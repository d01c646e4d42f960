/* Bounds on everything that a peer controls: one struct, filled from defaults and nbdd's flags
 * before anything else starts, read-only afterwards (so any thread reads it without a lock).
 *
 * To add one: a field here, a row in limits.c's table (flag, default, range, help). */
#ifndef CORE_LIMITS_H
#define CORE_LIMITS_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t clients;              /* clients served at once (past the handshake) */
    uint64_t clients_per_identity; /* of one identity at one export, if that does not say; 0: any */
    uint64_t clients_per_identity_overall; /* of one identity at all exports together; 0: any */
    uint64_t handshakes;                   /* connections in the handshake at once */
    uint64_t handshake_seconds;            /* from accept to the end of the handshake */
    uint64_t handshake_options;            /* options one client may send */
    uint64_t option_bytes;                 /* length of one of them */
    uint64_t dead_peer_seconds;            /* until a TCP peer that says nothing is given up */
    uint64_t contexts;                     /* metadata contexts one client may select */
    uint64_t client_requests;              /* requests of one client in flight */
    uint64_t client_bytes;                 /* payload of one client in flight */
    uint64_t total_bytes;                  /* payload of all clients in flight */
    uint64_t busy_poll_microseconds;       /* awake for a next request; 0: not */
    uint64_t gather_microseconds;          /* a sleep while requests gather; 0: not */
    uint64_t drain_seconds;                /* how long a stop waits for clients to finish */
    uint64_t io_threads;                   /* of the engine */
    uint64_t control_connections;          /* on the control socket */
    uint64_t control_threads;              /* that run its requests */
    uint64_t control_request_bytes;        /* one line */
    uint64_t events;                       /* kept for subscribers that lag */
    uint64_t disks;
    uint64_t exports;
    uint64_t listeners;
} Limits;

typedef struct {
    const char *flag; /* "max-clients": the option of nbdd */
    const char *name; /* "clients": in daemon.info */
    const char *help; /* a few words, with the unit */
    size_t offset;    /* of the uint64_t in Limits */
    uint64_t initial, minimum, maximum;
} LimitRow;

extern const LimitRow limit_rows[]; /* ends with a NULL flag */

void limits_init(Limits *limits); /* defaults */
/* text: a decimal number, with k, M or G behind it. False: *error (G_OPTION_ERROR) names the flag
 * and the range. */
bool limits_set(Limits *limits, const LimitRow *row, const char *text, GError **error);
uint64_t limits_get(const Limits *limits, const LimitRow *row);

#endif
