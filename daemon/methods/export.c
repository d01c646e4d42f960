/* export.add, set, remove, list, show */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/txn.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"

/* A disk has the export's name when it was registered with it; disks' names are shorter. */
#define MAX_DISK_NAME 128

static ApiSharing api_sharing(SharingMode sharing)
{
    switch (sharing) {
    case SHARING_EXCLUSIVE:
        return API_SHARING_EXCLUSIVE;
    case SHARING_SINGLE_WRITER:
        return API_SHARING_SINGLE_WRITER;
    case SHARING_SHARED:
        return API_SHARING_SHARED;
    }
    g_assert_not_reached();
}

static SharingMode core_sharing(ApiSharing sharing)
{
    switch (sharing) {
    case API_SHARING_EXCLUSIVE:
        return SHARING_EXCLUSIVE;
    case API_SHARING_SINGLE_WRITER:
        return SHARING_SINGLE_WRITER;
    case API_SHARING_SHARED:
        return SHARING_SHARED;
    }
    g_assert_not_reached();
}

static ApiOnBusy api_on_busy(ExportOnBusy on_busy)
{
    switch (on_busy) {
    case EXPORT_ON_BUSY_REFUSE:
        return API_ON_BUSY_REFUSE;
    case EXPORT_ON_BUSY_WAIT:
        return API_ON_BUSY_WAIT;
    case EXPORT_ON_BUSY_STEAL:
        return API_ON_BUSY_STEAL;
    }
    g_assert_not_reached();
}

static ExportOnBusy core_on_busy(ApiOnBusy on_busy)
{
    switch (on_busy) {
    case API_ON_BUSY_REFUSE:
        return EXPORT_ON_BUSY_REFUSE;
    case API_ON_BUSY_WAIT:
        return EXPORT_ON_BUSY_WAIT;
    case API_ON_BUSY_STEAL:
        return EXPORT_ON_BUSY_STEAL;
    }
    g_assert_not_reached();
}

/* The entries whose time is over. */
static char **ended_entries(const AllowList *list)
{
    g_autoptr(GStrvBuilder) ended = g_strv_builder_new();
    const char *const *entries = list ? allow_list_entries(list) : NULL;
    int64_t now = g_get_real_time();
    for (size_t i = 0; entries && entries[i]; i++) {
        if (allow_list_has_ended(list, i, now))
            g_strv_builder_add(ended, entries[i]);
    }
    return g_strv_builder_end(ended);
}

/* Under the registry's lock. live: NULL while the export is only staged. */
static void render(const ExportConfig *config, const DiskEntry *disk, const Export *live,
                   ExportObject *object)
{
    *object = (ExportObject){
        .name = g_strdup(config->name),
        .disk = g_strdup(config->disk),
        .state = live && live->removing ? API_EXPORT_STATE_REMOVING
                 : disk && disk->disk   ? API_EXPORT_STATE_READY
                                        : API_EXPORT_STATE_UNAVAILABLE,
        .size = disk && disk->disk ? disk_size(disk->disk) : 0,
        .read_only = config->read_only,
        .sharing = api_sharing(config->sharing),
        .on_busy = api_on_busy(config->on_busy),
        .has_max_clients = config->max_clients > 0,
        .max_clients = config->max_clients,
        .has_iops = config->qos.iops > 0,
        .iops = (uint32_t)config->qos.iops,
        .has_iops_burst = config->qos.iops_burst > 0,
        .iops_burst = (uint32_t)config->qos.iops_burst,
        .has_bandwidth = config->qos.bandwidth > 0,
        .bandwidth = config->qos.bandwidth,
        .has_bandwidth_burst = config->qos.bandwidth_burst > 0,
        .bandwidth_burst = config->qos.bandwidth_burst,
        .has_max_clients_per_identity = config->max_clients_per_identity > 0,
        .max_clients_per_identity = config->max_clients_per_identity,
        .description = g_strdup(config->description),
        .bitmaps = g_strdupv(config->bitmaps),
        .allow = config->allow ? g_strdupv((char **)allow_list_entries(config->allow)) : NULL,
        .expired = ended_entries(config->allow),
        .tls = config->tls_required ? API_EXPORT_TLS_REQUIRE : API_EXPORT_TLS_NONE,
        .clients = live ? live->clients->len : 0,
    };
}

static bool show_live(Registry *registry, const char *name, ExportObject *object, GError **error)
{
    registry_lock(registry);
    const Export *export = registry_find_export(registry, name);
    if (export)
        render(export->config, export->disk, export, object);
    registry_unlock(registry);
    if (!export)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no export '%s'", name);
    return export != NULL;
}

/* False when a later action has taken it away again. */
static bool show_staged(Txn *txn, const char *name, ExportObject *object)
{
    const ExportConfig *config = txn_find_export(txn, name);
    if (!config)
        return false;
    const DiskEntry *disk = txn_find_disk(txn, config->disk);
    Registry *registry = txn_registry(txn);
    registry_lock(registry);
    const Export *live = registry_find_export(registry, name);
    render(config, disk, live, object);
    registry_unlock(registry);
    return true;
}

bool method_export_show(Call *call, const ExportShowParams *params, ExportShowResult *result,
                        GError **error)
{
    return show_live(call_registry(call), params->name, result, error);
}

static const char *key_of(gconstpointer export)
{
    return ((const Export *)export)->config->name;
}

bool method_export_list(Call *call, const ExportListParams *params, ExportListResult *result,
                        GError **error)
{
    Registry *registry = call_registry(call);
    result->exports = g_ptr_array_new_with_free_func((GDestroyNotify)export_object_free);
    registry_lock(registry);
    g_autoptr(GPtrArray) exports = registry_list_exports(registry);
    guint end, begin = page_begin(exports, params->cursor, params->limit, key_of, &end);
    for (guint i = begin; i < end; i++) {
        const Export *export = exports->pdata[i];
        ExportObject *object = g_new0(ExportObject, 1);
        render(export->config, export->disk, export, object);
        g_ptr_array_add(result->exports, object);
    }
    result->next_cursor = page_next(exports, begin, end, key_of);
    registry_unlock(registry);
    return true;
}

static bool set_allow(ExportConfig *config, char **entries, GError **error)
{
    g_clear_pointer(&config->allow, allow_list_unref);
    if (!entries)
        return true;
    size_t index;
    g_autofree char *reason = NULL;
    config->allow = allow_list_new((const char *const *)entries, &index, &reason);
    if (config->allow)
        return true;
    g_autofree char *path = g_strdup_printf("/params/allow/%zu", index);
    api_error_set(error, ERROR_INVALID_ARGUMENT, path, "`allow[%zu]` is \"%s\": %s", index,
                  entries[index], reason);
    return false;
}

static bool config_of_params(const ExportAddParams *params, ExportConfig *config, GError **error)
{
    config->read_only = params->read_only;
    config->sharing = core_sharing(params->sharing);
    config->on_busy = core_on_busy(params->on_busy);
    config->max_clients = params->max_clients;
    config->max_clients_per_identity = params->max_clients_per_identity;
    config->qos = (ThrottleLimits){params->iops, params->iops_burst, params->bandwidth,
                                   params->bandwidth_burst};
    config->description = g_strdup(params->description);
    config->bitmaps = g_strdupv(params->bitmaps);
    config->tls_required = params->tls == API_EXPORT_TLS_REQUIRE;
    return set_allow(config, params->allow, error);
}

static bool check_disk_name(const char *name, GError **error)
{
    if (strlen(name) <= MAX_DISK_NAME && !strchr(name, '/'))
        return true;
    api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/name",
                  "with `path` the name is the disk's too, so it has %d characters at most and no "
                  "\"/\"; add the disk under another name first",
                  MAX_DISK_NAME);
    return false;
}

/* if_exists "same": what exists is what these parameters would make. */
static bool is_same(Txn *txn, const ExportAddParams *params, const ExportConfig *config,
                    const ExportConfig *existing)
{
    if (!export_config_equal(existing, config))
        return false;
    if (!params->path)
        return true;
    const DiskEntry *disk = txn_find_disk(txn, existing->disk);
    return disk && disk->implicit && g_str_equal(disk->path, params->path) &&
           disk->read_only == params->read_only;
}

bool action_export_add(Txn *txn, const ExportAddParams *params, GError **error)
{
    g_autoptr(ExportConfig) config =
        export_config_new(params->name, params->path ? params->name : params->disk);
    if (!config_of_params(params, config, error))
        return false;
    const DiskEntry *disk = txn_find_disk(txn, config->disk);
    /* An export of a read-only disk is read-only unless that is asked otherwise, which fails. */
    if (disk && disk->read_only && !params->has_read_only)
        config->read_only = true;

    const ExportConfig *existing = txn_find_export(txn, params->name);
    if (existing && params->if_exists == API_IF_EXISTS_SAME) {
        if (is_same(txn, params, config, existing))
            return true;
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                      "there is an export '%s' with another disk or other settings", params->name);
        return false;
    }
    if (existing) {
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                      "there is an export '%s' already", params->name);
        return false;
    }
    if (params->path && (!check_disk_name(params->name, error) ||
                         !txn_add_disk(txn, params->name, params->path, params->read_only,
                                       CACHE_WRITEBACK, true, error)))
        return false;
    return txn_add_export(txn, config, error);
}

bool describe_export_add(Txn *txn, Registry *registry, const ExportAddParams *params,
                         ExportAddResult *result, GError **error)
{
    if (!txn)
        return show_live(registry, params->name, result, error);
    return show_staged(txn, params->name, result);
}

bool action_export_set(Txn *txn, const ExportSetParams *params, GError **error)
{
    const ExportConfig *existing = txn_find_export(txn, params->name);
    if (!existing) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no export '%s'",
                      params->name);
        return false;
    }
    g_autoptr(ExportConfig) config = export_config_copy(existing);
    if (params->has_read_only)
        config->read_only = params->read_only;
    if (params->has_sharing)
        config->sharing = core_sharing(params->sharing);
    if (params->has_on_busy)
        config->on_busy = core_on_busy(params->on_busy);
    if (params->has_max_clients)
        config->max_clients = params->max_clients;
    if (params->has_iops)
        config->qos.iops = params->iops;
    if (params->has_iops_burst)
        config->qos.iops_burst = params->iops_burst;
    if (params->has_bandwidth)
        config->qos.bandwidth = params->bandwidth;
    if (params->has_bandwidth_burst)
        config->qos.bandwidth_burst = params->bandwidth_burst;
    if (params->has_max_clients_per_identity)
        config->max_clients_per_identity = params->max_clients_per_identity;
    if (params->has_description) {
        g_free(config->description);
        config->description = g_strdup(params->description);
    }
    if (params->has_bitmaps) {
        g_strfreev(config->bitmaps);
        config->bitmaps = g_strdupv(params->bitmaps);
    }
    if (params->has_tls)
        config->tls_required = params->tls == API_EXPORT_TLS_REQUIRE;
    if (params->has_allow && !set_allow(config, params->allow, error))
        return false;
    return txn_set_export(txn, config, params->evict, error);
}

bool describe_export_set(Txn *txn, Registry *registry, const ExportSetParams *params,
                         ExportSetResult *result, GError **error)
{
    if (!txn)
        return show_live(registry, params->name, result, error);
    return show_staged(txn, params->name, result);
}

bool export_remove_is_plain(const ExportRemoveParams *params)
{
    return params->mode != API_REMOVE_MODE_SAFE;
}

bool action_export_remove(Txn *txn, const ExportRemoveParams *params, GError **error)
{
    if (params->missing_ok && !txn_find_export(txn, params->name))
        return true;
    return txn_remove_export(txn, params->name, REMOVE_SAFE, error);
}

bool describe_export_remove(Txn *txn, Registry *registry, const ExportRemoveParams *params,
                            ExportRemoveResult *result, GError **error)
{
    result->name = g_strdup(params->name);
    result->removed = txn_has_removed_export(txn, params->name);
    return true;
}

/* What a dry run of drain or hard can tell. */
static bool may_remove(Registry *registry, const char *name, GError **error)
{
    registry_lock(registry);
    const Export *export = registry_find_export(registry, name);
    bool exists = export != NULL, leaving = export && export->removing;
    registry_unlock(registry);
    if (!exists)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no export '%s'", name);
    else if (leaving)
        api_error_set(error, ERROR_BUSY, "/params/name", "export '%s' is being removed", name);
    return exists && !leaving;
}

/* drain and hard */
bool method_export_remove(Call *call, const ExportRemoveParams *params, ExportRemoveResult *result,
                          GError **error)
{
    Registry *registry = call_registry(call);
    gint64 deadline = g_get_monotonic_time() + (gint64)params->timeout_seconds * G_USEC_PER_SEC;
    ClientStop how = params->mode == API_REMOVE_MODE_DRAIN ? CLIENT_STOP_DRAIN : CLIENT_STOP_HARD;
    g_autoptr(GError) local = NULL;
    bool removed = params->dry_run
                       ? may_remove(registry, params->name, &local)
                       : export_remove_ending(registry, params->name, how, deadline, &local);
    if (!removed && !(params->missing_ok && g_error_matches(local, API_ERROR, ERROR_NOT_FOUND))) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    result->name = g_strdup(params->name);
    result->removed = removed;
    return true;
}
