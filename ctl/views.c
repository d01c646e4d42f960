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
    {"TLS", "tls", .optional = true},
    {"ALLOW", "allow", .elastic = true, .optional = true},
    {"BITMAPS", "bitmaps", .elastic = true, .optional = true},
    {"DESCRIPTION", "description", .elastic = true, .optional = true, .if_any = true},
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

static const View views[] = {
    {"disk", disk, {{"path"}, {"size"}, {"read_only"}}},
    {"export", export, {{"disk", "disk"}, {"size"}, {"read_only"}, {"sharing"}, {"allow", "for"}}},
    {"bitmap",
     bitmap,
     {{"state"},
      {"dirty_bytes", "dirty"},
      {"granularity", "granularity"},
      {"generation", "generation"}}},
    {"listener", listener, {{"state"}, {"address", "connect to"}, {"problem"}}},
    {"client", client, {{NULL}}},
    {"limit", limit, {{NULL}}},
};

static const ViewWords view_word_rows[] = {
    {"disk", "read_only", .yes = "read-only", .no = "read-write"},
    {"disk", "problem", .hide_null = true},
    {"export", "read_only", .yes = "read-only", .no = "read-write"},
    {"export", "max_clients", .null = "no bound"},
    {"export", "description", .null = "none"},
    {"export", "bitmaps", .null = "all", .empty = "none"},
    {"export", "allow", .null = "everyone", .empty = "nobody"},
    {"bitmap", "dirty_bytes", .unless = "state=invalid", .instead = "unknown"},
    {"bitmap", "over_reported_bytes", .unless = "state=invalid", .instead = "unknown"},
    {"bitmap", "reason", .hide_null = true},
    {"listener", "problem", .hide_null = true},
    {"listener", "tls", .null = "none"},
    {"listener", "tls_mode", .hide_null = true},
    {"listener", "max_clients", .null = "no bound"},
    {"client", "read_only", .yes = "read-only", .no = "read-write"},
};

const View *view_find(const char *object)
{
    for (size_t i = 0; i < G_N_ELEMENTS(views); i++)
        if (strcmp(views[i].object, object) == 0)
            return &views[i];
    return NULL;
}

const ViewWords *view_words(const char *object, const char *member)
{
    for (size_t i = 0; i < G_N_ELEMENTS(view_word_rows); i++)
        if (strcmp(view_word_rows[i].object, object) == 0 &&
            strcmp(view_word_rows[i].member, member) == 0)
            return &view_word_rows[i];
    return NULL;
}
