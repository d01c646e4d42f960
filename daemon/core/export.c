#include "daemon/core/export.h"

ExportConfig *export_config_new(const char *name, const char *disk)
{
    ExportConfig *config = g_new0(ExportConfig, 1);
    refs_init(&config->refs);
    config->name = g_strdup(name);
    config->disk = g_strdup(disk);
    return config;
}

ExportConfig *export_config_copy(const ExportConfig *from)
{
    /* Not a copy of the whole: others count references of `from` at the same time. */
    ExportConfig *config = export_config_new(from->name, from->disk);
    config->description = g_strdup(from->description);
    config->read_only = from->read_only;
    config->sharing = from->sharing;
    config->max_clients = from->max_clients;
    config->bitmaps = g_strdupv(from->bitmaps);
    config->allow = from->allow ? allow_list_ref(from->allow) : NULL;
    config->tls_required = from->tls_required;
    config->on_busy = from->on_busy;
    config->max_clients_per_identity = from->max_clients_per_identity;
    config->qos = from->qos;
    return config;
}

ExportConfig *export_config_ref(ExportConfig *config)
{
    refs_take(&config->refs);
    return config;
}

void export_config_unref(ExportConfig *config)
{
    if (!config || !refs_drop(&config->refs))
        return;
    g_free(config->name);
    g_free(config->disk);
    g_free(config->description);
    g_strfreev(config->bitmaps);
    allow_list_unref(config->allow);
    g_free(config);
}

/* NULL is a list of its own: "no list" is not the empty one. */
static bool same_list(const char *const *a, const char *const *b)
{
    return a && b ? g_strv_equal(a, b) : a == b;
}

static bool same_qos(const ThrottleLimits *a, const ThrottleLimits *b)
{
    return a->iops == b->iops && a->iops_burst == b->iops_burst && a->bandwidth == b->bandwidth &&
           a->bandwidth_burst == b->bandwidth_burst;
}

bool export_config_equal(const ExportConfig *a, const ExportConfig *b)
{
    return g_str_equal(a->name, b->name) && g_str_equal(a->disk, b->disk) &&
           g_strcmp0(a->description, b->description) == 0 && a->read_only == b->read_only &&
           a->sharing == b->sharing && a->max_clients == b->max_clients &&
           a->tls_required == b->tls_required && a->on_busy == b->on_busy &&
           a->max_clients_per_identity == b->max_clients_per_identity &&
           same_qos(&a->qos, &b->qos) &&
           same_list((const char *const *)a->bitmaps, (const char *const *)b->bitmaps) &&
           same_list(a->allow ? allow_list_entries(a->allow) : NULL,
                     b->allow ? allow_list_entries(b->allow) : NULL);
}

bool export_config_shows_bitmap(const ExportConfig *config, const char *bitmap)
{
    return !config->bitmaps || g_strv_contains((const char *const *)config->bitmaps, bitmap);
}

Export *export_new(ExportConfig *config, DiskEntry *disk)
{
    Export *export = g_new0(Export, 1);
    refs_init(&export->refs);
    export->config = export_config_ref(config);
    export->disk = disk_entry_ref(disk);
    export->throttle = throttle_new(&config->qos);
    export->clients = g_ptr_array_new();
    export->waiters = g_ptr_array_new();
    export->totals = g_new0(IoStats, 1);
    return export;
}

Export *export_ref(Export *export)
{
    refs_take(&export->refs);
    return export;
}

void export_unref(Export *export)
{
    if (!export || !refs_drop(&export->refs))
        return;
    export_config_unref(export->config);
    disk_entry_unref(export->disk);
    g_ptr_array_unref(export->clients);
    throttle_free(export->throttle);
    g_ptr_array_unref(export->waiters);
    g_free(export->totals);
    g_free(export);
}
