#include "daemon/core/limits.h"
#include <errno.h>

#define ROW(flag, field, help, initial, minimum, maximum)                                          \
    {                                                                                              \
        flag, #field, help, offsetof(Limits, field), initial, minimum, maximum                     \
    }
#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* The payload of a request is 32 MiB at most, so that much must fit into every bound on bytes. */
const LimitRow limit_rows[] = {
    ROW("max-clients", clients, "NBD clients served at once", 10000, 1, 1000000),
    ROW("max-clients-per-identity", clients_per_identity,
        "NBD clients of one identity at an export that sets no bound itself (0: none)", 0, 0,
        1000000),
    ROW("max-clients-per-identity-overall", clients_per_identity_overall,
        "NBD clients of one identity at all exports together (0: none)", 0, 0, 1000000),
    ROW("max-handshakes", handshakes, "NBD connections in the handshake at once", 2000, 1, 1000000),
    ROW("handshake-seconds", handshake_seconds, "time a client has for its handshake", 10, 1, 3600),
    ROW("handshake-options", handshake_options, "options a client may send", 16384, 8, 1000000),
    ROW("option-bytes", option_bytes, "length of an option", MIB, 4 * KIB, 16 * MIB),
    ROW("dead-peer-seconds", dead_peer_seconds, "until a silent TCP peer is given up", 60, 1,
        86400),
    ROW("max-contexts", contexts, "metadata contexts a client may select", 64, 1, 4096),
    ROW("client-requests", client_requests, "requests in flight for each client", 256, 1, 65536),
    ROW("client-bytes", client_bytes, "bytes in flight for each client", 64 * MIB, 32 * MIB,
        64 * GIB),
    ROW("total-bytes", total_bytes, "bytes in flight for all clients, buffers of TLS included",
        512 * MIB, 32 * MIB, 1024 * GIB),
    ROW("busy-poll-microseconds", busy_poll_microseconds,
        "how long to stay awake for the next request of a quick client (0: not)", 100, 0, 10000),
    ROW("gather-microseconds", gather_microseconds,
        "how long to sleep for requests to gather, where it makes a client quicker (0: not)", 30, 0,
        10000),
    ROW("drain-seconds", drain_seconds, "how long a stop waits for clients", 10, 0, 3600),
    ROW("io-threads", io_threads, "threads for I/O that would block", 128, 1, 4096),
    ROW("control-connections", control_connections, "connections to the control socket", 256, 1,
        65536),
    ROW("control-threads", control_threads, "control requests running at once", 16, 1, 1024),
    ROW("control-request-bytes", control_request_bytes, "length of a control request", MIB,
        64 * KIB, 64 * MIB),
    ROW("events", events, "events kept for slow subscribers", 1024, 16, 1000000),
    ROW("max-disks", disks, "disks", 10000, 1, 1000000),
    ROW("max-exports", exports, "exports", 10000, 1, 1000000),
    ROW("max-listeners", listeners, "listeners", 256, 1, 65536),
    {NULL},
};

static uint64_t *field_of(Limits *limits, const LimitRow *row)
{
    return (uint64_t *)(gpointer)((char *)limits + row->offset);
}

void limits_init(Limits *limits)
{
    for (const LimitRow *row = limit_rows; row->flag; row++)
        *field_of(limits, row) = row->initial;
}

uint64_t limits_get(const Limits *limits, const LimitRow *row)
{
    return *(const uint64_t *)(gconstpointer)((const char *)limits + row->offset);
}

bool limits_set(Limits *limits, const LimitRow *row, const char *text, GError **error)
{
    char *end;
    uint64_t value = 0;
    bool good = g_ascii_isdigit(*text);
    if (good) {
        errno = 0;
        value = g_ascii_strtoull(text, &end, 10);
        uint64_t unit = *end == 'k' ? KIB : *end == 'M' ? MIB : *end == 'G' ? GIB : 1;
        if (unit != 1)
            end++;
        good = errno == 0 && *end == '\0' && value <= UINT64_MAX / unit;
        value *= unit;
    }
    if (!good || value < row->minimum || value > row->maximum) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--%s must be a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT
                    ", not \"%s\"",
                    row->flag, row->minimum, row->maximum, text);
        return false;
    }
    *field_of(limits, row) = value;
    return true;
}
