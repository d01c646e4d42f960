#include "daemon/core/rows.h"

/* The rows borrow: the store copies what it keeps. */

bool disk_entry_put(StoreTxn *txn, const DiskEntry *entry, GError **error)
{
    StoreDisk row = {.name = entry->name,
                     .path = entry->path,
                     .read_only = entry->read_only,
                     .cache = (int)entry->cache,
                     .implicit = entry->implicit};
    return store_put_disk(txn, &row, error);
}

bool export_config_put(StoreTxn *txn, const ExportConfig *config, GError **error)
{
    StoreExport row = {
        .name = config->name,
        .disk = config->disk,
        .description = config->description,
        .read_only = config->read_only,
        .sharing = (int)config->sharing,
        .max_clients = config->max_clients,
        .bitmaps = config->bitmaps,
        .allow = config->allow ? (char **)allow_list_entries(config->allow) : NULL,
        .tls_required = config->tls_required,
        .on_busy = (int)config->on_busy,
        .max_clients_per_identity = config->max_clients_per_identity,
        .iops = config->qos.iops,
        .iops_burst = config->qos.iops_burst,
        .bandwidth = config->qos.bandwidth,
        .bandwidth_burst = config->qos.bandwidth_burst,
    };
    return store_put_export(txn, &row, error);
}

bool listener_entry_put(StoreTxn *txn, const ListenerEntry *entry, GError **error)
{
    StoreListener row = {.name = entry->name,
                         .address = entry->requested,
                         .credential = entry->credential,
                         .tls_mode = (int)entry->tls_mode,
                         .max_clients = entry->max_clients};
    return store_put_listener(txn, &row, error);
}

DiskEntry *disk_entry_from_row(const StoreDisk *row)
{
    DiskEntry *entry =
        disk_entry_new(row->name, row->path, row->read_only, (CacheMode)row->cache, row->implicit);
    entry->row = row->id;
    return entry;
}

ExportConfig *export_config_from_row(const StoreExport *row, GError **error)
{
    g_autoptr(ExportConfig) config = export_config_new(row->name, row->disk);
    config->description = g_strdup(row->description);
    config->read_only = row->read_only;
    config->sharing = (SharingMode)row->sharing;
    config->max_clients = row->max_clients;
    config->bitmaps = g_strdupv(row->bitmaps);
    config->tls_required = row->tls_required;
    config->on_busy = (ExportOnBusy)row->on_busy;
    config->max_clients_per_identity = row->max_clients_per_identity;
    config->qos =
        (ThrottleLimits){row->iops, row->iops_burst, row->bandwidth, row->bandwidth_burst};
    if (row->on_busy < EXPORT_ON_BUSY_REFUSE || row->on_busy > EXPORT_ON_BUSY_STEAL) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_CORRUPT,
                    "export '%s': %d says nothing of what a busy one does", row->name,
                    row->on_busy);
        return NULL;
    }
    if (row->sharing < SHARING_EXCLUSIVE || row->sharing > SHARING_SHARED) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_CORRUPT,
                    "export '%s': %d is no sharing mode", row->name, row->sharing);
        return NULL;
    }
    if (row->allow) {
        size_t index;
        g_autofree char *reason = NULL;
        config->allow = allow_list_new((const char *const *)row->allow, &index, &reason);
        if (!config->allow) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_CORRUPT,
                        "export '%s': allow entry %zu: %s", row->name, index, reason);
            return NULL;
        }
    }
    return g_steal_pointer(&config);
}

ListenerEntry *listener_entry_from_row(const StoreListener *row)
{
    ListenerEntry *entry = listener_entry_new(row->name, row->address);
    entry->credential = g_strdup(row->credential);
    entry->tls_mode = (ListenerTls)row->tls_mode;
    entry->max_clients = row->max_clients;
    entry->persistent = true;
    return entry;
}
