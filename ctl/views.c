#include "ctl/views.h"
#include <glib.h>
#include <string.h>

static const ViewColumn disk[] = {
    {"NAME", "name", .style = STYLE_NAME},   {"STATE", "state"},
    {"SIZE", "size", .right = true},         {"MODE", "read_only", .yes = "ro", .no = "rw"},
    {"CACHE", "cache", .optional = true},    {"EXPORTS", "exports", .elastic = true},
    {"BITMAPS", "bitmaps", .elastic = true}, {"PATH", "path", .elastic = true},
    {"PROBLEM", "problem", .note = true},    {NULL},
};

static const ViewColumn export[] = {
    {"NAME", "name", .style = STYLE_NAME},
    {"DISK", "disk"},
    {"STATE", "state"},
    {"SIZE", "size", .right = true},
    {"MODE", "read_only", .yes = "ro", .no = "rw"},
    {"SHARING", "sharing"},
    {"CLIENTS", "clients", .right = true},
    {"MAX", "max_clients", .right = true, .if_any = true},
    {"IOPS", "iops", .right = true, .if_any = true},
    {"BYTES/S", "bandwidth", .right = true, .if_any = true},
    {"TLS", "tls", .optional = true},
    {"ALLOW", "allow", .elastic = true, .optional = true},
    {"BITMAPS", "bitmaps", .elastic = true, .optional = true},
    {"DESCRIPTION", "description", .elastic = true, .optional = true, .if_any = true},
    {"EXPIRED", "expired", .note = true},
    {NULL},
};

static const ViewColumn bitmap[] = {
    {"DISK", "disk"},
    {"NAME", "name", .style = STYLE_NAME},
    {"STATE", "state"},
    {"DIRTY", "dirty_bytes", .right = true},
    {"OVER-REPORTED", "over_reported_bytes", .right = true, .if_any = true},
    {"MISSED", "missed_writes", .style = STYLE_WARNING, .if_any = true},
    {"GRANULARITY", "granularity", .right = true},
    {"SURVIVES", "durability", .optional = true},
    {"BUSY", "busy", .if_any = true},
    {"GENERATION", "generation", .optional = true},
    {"REASON", "reason", .note = true},
    {NULL},
};

static const ViewColumn listener[] = {
    {"NAME", "name", .style = STYLE_NAME},
    {"STATE", "state"},
    {"ADDRESS", "address"},
    {"TLS", "tls"},
    {"TLS MODE", "tls_mode", .if_any = true},
    {"CLIENTS", "clients", .right = true},
    {"MAX", "max_clients", .right = true, .if_any = true},
    {"AFTER RESTART", "persistent", .optional = true},
    {"PROBLEM", "problem", .note = true},
    {NULL},
};

static const ViewColumn client[] = {
    {"ID", "id", .style = STYLE_NAME, .right = true},
    {"EXPORT", "export"},
    {"STATE", "state"},
    {"MODE", "read_only", .yes = "ro", .no = "rw"},
    {"ADDRESS", "address", .elastic = true},
    {"IDENTITY", "identity", .elastic = true},
    {"TLS", "tls", .optional = true},
    {"SINCE", "connected_at", .right = true},
    {"READ", "counters/read/bytes", .right = true},
    {"WRITTEN", "counters/write/bytes", .right = true},
    {"IN FLIGHT", "in_flight", .right = true, .optional = true},
    {NULL},
};

static const ViewColumn limit[] = {
    {"NAME", "name", .style = STYLE_NAME},
    {"VALUE", "value", .right = true},
    {"MEANING", "description", .elastic = true},
    {NULL},
};

static const ViewColumn credential[] = {
    {"NAME", "name", .style = STYLE_NAME},
    {"KIND", "kind"},
    {"STATE", "state"},
    {"EXPIRES", "certificates/0/not_after", .date = true, .if_any = true},
    {"CLIENTS VERIFIED", "verify_client", .if_any = true},
    {"REVOKED", "revoked", .right = true, .if_any = true},
    {"USERS", "users", .right = true, .if_any = true},
    {"LISTENERS", "listeners", .elastic = true},
    {"DIR", "dir", .elastic = true, .if_any = true},
    {"KEYS", "keys", .elastic = true, .if_any = true},
    {"PROBLEM", "problem", .note = true},
    {"WARNINGS", "warnings", .note = true},
    {NULL},
};

static const View views[] = {
    {"disk", "Disk", disk, {{"path"}, {"size"}, {"read_only"}}},
    {"export",
     "Export",
     export,
     {{"disk", "disk"}, {"size"}, {"read_only"}, {"sharing"}, {"allow", "for"}}},
    {"bitmap",
     "Bitmap",
     bitmap,
     {{"state"},
      {"dirty_bytes", "dirty"},
      {"granularity", "granularity"},
      {"generation", "generation"}}},
    {"listener",
     "Listener",
     listener,
     {{"state"}, {"address", "connect to"}, {"tls_mode", "TLS"}, {"problem"}}},
    {"client", "Client", client, {{NULL}}},
    {"credential",
     "Credential",
     credential,
     {{"kind"}, {"state"}, {"dir"}, {"keys"}, {"problem"}, {"warnings", "warning:"}}},
    {"tls-certificate", "Certificate", NULL, {{NULL}}},
    {"limit", "Limit", limit, {{NULL}}},
};

/* What the objects of a noun are called, where that is not the noun. */
static const struct {
    const char *noun, *object;
} nouns[] = {
    {"tls", "credential"},
};

static const ViewWords view_word_rows[] = {
    {"disk", "read_only", .yes = "read-only", .no = "read-write"},
    {"disk", "problem", .hide_null = true},
    {"export", "read_only", .yes = "read-only", .no = "read-write"},
    {"export", "max_clients", .null = "no bound"},
    {"export", "description", .null = "none"},
    {"export", "max_clients_per_identity", .null = "no bound of its own"},
    {"export", "iops", .null = "no limit"},
    {"export", "bandwidth", .null = "no limit"},
    {"export", "iops_burst", .hide_null = true},
    {"export", "bandwidth_burst", .hide_null = true},
    {"export", "bitmaps", .null = "all", .empty = "none"},
    {"export", "allow", .null = "everyone", .empty = "nobody"},
    {"export", "expired", .empty = "none"},
    {"bitmap", "dirty_bytes", .unless = "state=invalid", .instead = "unknown"},
    {"bitmap", "over_reported_bytes", .unless = "state=invalid", .instead = "unknown"},
    {"bitmap", "reason", .hide_null = true},
    {"listener", "problem", .hide_null = true},
    {"listener", "tls", .null = "none"},
    {"listener", "tls_mode", .hide_null = true},
    {"listener", "max_clients", .null = "no bound"},
    {"credential", "problem", .hide_null = true},
    {"credential", "dir", .hide_null = true},
    {"credential", "keys", .hide_null = true},
    {"credential", "priority", .null = "the default"},
    {"client", "read_only", .yes = "read-only", .no = "read-write"},
};

static const struct {
    const char *object, *member, *value, *meaning;
} meanings[] = {
    {"bitmap", "durability", "power", "survives anything, a power loss included"},
    {"bitmap", "durability", "process", "survives the end of nbdd, not that of the machine"},
    {"bitmap", "durability", "none", "survives nothing but a clean stop"},
    {"bitmap", "watch", "full", "writes by others are noticed"},
    {"bitmap", "watch", "boot", "writes by others while the machine was booted anew are not seen"},
};

const char *view_meaning(const char *object, const char *member, const char *value)
{
    for (size_t i = 0; i < G_N_ELEMENTS(meanings); i++)
        if (strcmp(meanings[i].object, object) == 0 && strcmp(meanings[i].member, member) == 0 &&
            strcmp(meanings[i].value, value) == 0)
            return meanings[i].meaning;
    return NULL;
}

const View *view_find(const char *object)
{
    for (size_t i = 0; i < G_N_ELEMENTS(views); i++)
        if (strcmp(views[i].object, object) == 0)
            return &views[i];
    return NULL;
}

const char *view_object_of(const char *noun)
{
    for (size_t i = 0; i < G_N_ELEMENTS(nouns); i++)
        if (strcmp(nouns[i].noun, noun) == 0)
            return nouns[i].object;
    return noun;
}

const ViewWords *view_words(const char *object, const char *member)
{
    for (size_t i = 0; i < G_N_ELEMENTS(view_word_rows); i++)
        if (strcmp(view_word_rows[i].object, object) == 0 &&
            strcmp(view_word_rows[i].member, member) == 0)
            return &view_word_rows[i];
    return NULL;
}
