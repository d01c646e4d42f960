#include "daemon/core/registry.h"
#include "daemon/core/registry_state.h"

static void init_monotonic(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

Registry *registry_new(Store *store, Engine *engine, const Limits *limits, const DaemonFacts *facts)
{
    Registry *registry = g_new0(Registry, 1);
    registry->store = store;
    registry->engine = engine;
    registry->events = events_new(limits->events);
    registry->limits = *limits;
    registry->facts = *facts;
    registry->expiry_next = ALLOW_FOR_EVER;
    registry->expiry_checked = g_get_real_time();
    registry->facts.state_dir = g_strdup(facts->state_dir);
    registry->facts.socket = g_strdup(facts->socket);
    pthread_mutex_init(&registry->lock, NULL);
    pthread_mutex_init(&registry->credential_lock, NULL);
    init_monotonic(&registry->clients_changed);
    init_monotonic(&registry->claims_changed);
    registry->disks =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)disk_entry_unref);
    registry->exports =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)export_unref);
    registry->export_order = g_sequence_new(NULL);
    registry->listeners =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)listener_entry_unref);
    registry->credentials =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)credential_unref);
    registry->clients = g_hash_table_new(g_int64_hash, g_int64_equal);
    registry->claims = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    registry->served_identities = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    handshakes_init(&registry->handshakes);
    return registry;
}

void registry_free(Registry *registry)
{
    if (!registry)
        return;
    g_sequence_free(registry->export_order);
    g_hash_table_unref(registry->exports);
    g_hash_table_unref(registry->disks);
    g_hash_table_unref(registry->listeners);
    g_hash_table_unref(registry->credentials);
    g_hash_table_unref(registry->clients);
    g_hash_table_unref(registry->served_identities);
    handshakes_clear(&registry->handshakes);
    g_hash_table_unref(registry->claims);
    events_free(registry->events);
    pthread_cond_destroy(&registry->clients_changed);
    pthread_cond_destroy(&registry->claims_changed);
    pthread_mutex_destroy(&registry->lock);
    pthread_mutex_destroy(&registry->credential_lock);
    g_free(registry->facts.state_dir);
    g_free(registry->facts.socket);
    g_free(registry);
}

Store *registry_store(Registry *registry)
{
    return registry->store;
}

Engine *registry_engine(Registry *registry)
{
    return registry->engine;
}

Events *registry_events(Registry *registry)
{
    return registry->events;
}

const Limits *registry_limits(Registry *registry)
{
    return &registry->limits;
}

const DaemonFacts *registry_facts(Registry *registry)
{
    return &registry->facts;
}

void registry_lock(Registry *registry)
{
    pthread_mutex_lock(&registry->lock);
}

void registry_unlock(Registry *registry)
{
    pthread_mutex_unlock(&registry->lock);
}

bool registry_wait(Registry *registry, pthread_cond_t *condition, gint64 deadline)
{
    struct timespec until = {.tv_sec = deadline / G_USEC_PER_SEC,
                             .tv_nsec = deadline % G_USEC_PER_SEC * 1000};
    return pthread_cond_timedwait(condition, &registry->lock, &until) == 0;
}

DiskEntry *registry_find_disk(Registry *registry, const char *name)
{
    return g_hash_table_lookup(registry->disks, name);
}

Export *registry_find_export(Registry *registry, const char *name)
{
    return g_hash_table_lookup(registry->exports, name);
}

ListenerEntry *registry_find_listener(Registry *registry, const char *name)
{
    return g_hash_table_lookup(registry->listeners, name);
}

Client *registry_find_client(Registry *registry, uint64_t id)
{
    return g_hash_table_lookup(registry->clients, &id);
}

Credential *registry_find_credential(Registry *registry, const char *name)
{
    return g_hash_table_lookup(registry->credentials, name);
}

DiskEntry *registry_find_identity(Registry *registry, const BackendIdentity *identity)
{
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->disks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        DiskEntry *entry = value;
        if (entry->identified && backend_identity_equal(&entry->identity, identity))
            return entry;
    }
    return NULL;
}

/* Every kind of entry has its name first in order of meaning but not in memory, so each list has a
 * comparison of its own. */
static gint by_disk_name(gconstpointer a, gconstpointer b)
{
    return strcmp((*(DiskEntry *const *)a)->name, (*(DiskEntry *const *)b)->name);
}

static gint by_listener_name(gconstpointer a, gconstpointer b)
{
    return strcmp((*(ListenerEntry *const *)a)->name, (*(ListenerEntry *const *)b)->name);
}

static gint by_credential_name(gconstpointer a, gconstpointer b)
{
    return strcmp((*(Credential *const *)a)->name, (*(Credential *const *)b)->name);
}

static gint by_client_id(gconstpointer a, gconstpointer b)
{
    uint64_t left = (*(Client *const *)a)->id, right = (*(Client *const *)b)->id;
    return left < right ? -1 : left > right;
}

static GPtrArray *list_values(GHashTable *table, GCompareFunc compare)
{
    GPtrArray *list = g_ptr_array_sized_new(g_hash_table_size(table));
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, table);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        g_ptr_array_add(list, value);
    g_ptr_array_sort(list, compare);
    return list;
}

GPtrArray *registry_list_disks(Registry *registry)
{
    return list_values(registry->disks, by_disk_name);
}

static gint compare_exports(gconstpointer a, gconstpointer b, gpointer data)
{
    return strcmp(((const Export *)a)->config->name, ((const Export *)b)->config->name);
}

void registry_put_export(Registry *registry, Export *export)
{
    g_hash_table_insert(registry->exports, export->config->name, export);
    g_sequence_insert_sorted(registry->export_order, export, compare_exports, NULL);
}

void registry_drop_export(Registry *registry, Export *export)
{
    g_sequence_remove(g_sequence_lookup(registry->export_order, export, compare_exports, NULL));
    g_hash_table_remove(registry->exports, export->config->name);
}

void registry_rekey_export(Registry *registry, Export *export, const ExportConfig *old)
{
    g_hash_table_steal(registry->exports, old->name);
    g_hash_table_insert(registry->exports, export->config->name, export);
}

GSequenceIter *registry_exports_behind(Registry *registry, const char *after)
{
    if (!after)
        return g_sequence_get_begin_iter(registry->export_order);
    ExportConfig config = {.name = (char *)after};
    Export key = {.config = &config};
    return g_sequence_search(registry->export_order, &key, compare_exports, NULL);
}

static GPtrArray *list_exports(Registry *registry, const char *disk)
{
    GPtrArray *list = g_ptr_array_new();
    GSequenceIter *at = registry_exports_behind(registry, NULL);
    for (; !g_sequence_iter_is_end(at); at = g_sequence_iter_next(at)) {
        Export *export = g_sequence_get(at);
        if (!disk || g_str_equal(export->config->disk, disk))
            g_ptr_array_add(list, export);
    }
    return list;
}

GPtrArray *registry_list_exports(Registry *registry)
{
    return list_exports(registry, NULL);
}

GPtrArray *registry_list_exports_of(Registry *registry, const char *disk)
{
    return list_exports(registry, disk);
}

GPtrArray *registry_list_listeners(Registry *registry)
{
    return list_values(registry->listeners, by_listener_name);
}

GPtrArray *registry_list_credentials(Registry *registry)
{
    return list_values(registry->credentials, by_credential_name);
}

GPtrArray *registry_list_clients(Registry *registry)
{
    return list_values(registry->clients, by_client_id);
}

void io_stats_add(IoStats *to, const IoStats *from)
{
#define ADD(field)                                                                                 \
    atomic_fetch_add_explicit(&to->field,                                                          \
                              atomic_load_explicit(&from->field, memory_order_relaxed),            \
                              memory_order_relaxed)
    for (int op = 0; op < OP_COUNT; op++) {
        ADD(requests[op]);
        ADD(bytes[op]);
        ADD(errors[op]);
        for (int i = 0; i < LATENCY_BUCKETS; i++)
            ADD(latency[op][i]);
    }
    ADD(in_flight); /* 0 for clients that have closed */
#undef ADD
}

void registry_sum_export(Registry *registry, Export *export, IoStats *ret_stats)
{
    memset(ret_stats, 0, sizeof(*ret_stats));
    io_stats_add(ret_stats, export->totals);
    for (guint i = 0; i < export->clients->len; i++)
        io_stats_add(ret_stats, &((Client *)export->clients->pdata[i])->stats);
}

void registry_sum_daemon(Registry *registry, IoStats *ret_stats)
{
    memset(ret_stats, 0, sizeof(*ret_stats));
    io_stats_add(ret_stats, &registry->totals);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->clients);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        io_stats_add(ret_stats, &((Client *)value)->stats);
}

void registry_count(Registry *registry, RegistryCounts *ret_counts)
{
    *ret_counts = (RegistryCounts){
        .disks = g_hash_table_size(registry->disks),
        .exports = g_hash_table_size(registry->exports),
        .listeners = g_hash_table_size(registry->listeners),
        .clients = registry->served,
        .handshakes = g_hash_table_size(registry->clients) - registry->served,
        .accepted = registry->accepted,
        .refused = registry->refused,
    };
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->disks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        DiskEntry *entry = value;
        if (!entry->disk)
            continue;
        GPtrArray *bitmaps = disk_list_bitmaps(entry->disk);
        ret_counts->bitmaps += bitmaps->len;
        g_ptr_array_unref(bitmaps);
    }
}

void registry_stop_clients(Registry *registry, Export *export, ClientStop how)
{
    registry_lock(registry);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->clients);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Client *client = value;
        if (!export || client->export == export)
            client_stop(client, how);
    }
    registry_unlock(registry);
}

bool registry_wait_clients(Registry *registry, Export *export, gint64 deadline)
{
    registry_lock(registry);
    bool empty, in_time = true;
    while (!(empty = export ? export->clients->len == 0 : registry->served == 0) && in_time)
        in_time = registry_wait(registry, &registry->clients_changed, deadline);
    registry_unlock(registry);
    return empty;
}

void registry_begin_shutdown(Registry *registry)
{
    registry_lock(registry);
    registry->stopping = true;
    registry_unlock(registry);
}

bool registry_is_stopping(Registry *registry)
{
    registry_lock(registry);
    bool stopping = registry->stopping;
    registry_unlock(registry);
    return stopping;
}
