#include "daemon/core/client.h"
#include "daemon/core/registry_state.h"

/* A request's payload is 32 MiB at most (design: protocol tables). */
#define MAXIMUM_BLOCK (32u * 1024 * 1024)

static void promise_clear(gpointer data)
{
    ClientPromise *promise = data;
    g_free(promise->export_name);
}

Client *client_new(Registry *registry, const char *listener_name, const char *address,
                   ClientStopFunction stop, gpointer connection, char **ret_text)
{
    const Limits *limits = &registry->limits;
    registry_lock(registry);
    ListenerEntry *listener = registry_find_listener(registry, listener_name);
    const char *refused = NULL;
    if (registry->stopping)
        refused = "the daemon is stopping";
    else if (!listener)
        refused = "the listener is being removed";
    else if (g_hash_table_size(registry->clients) - registry->served >= limits->handshakes)
        refused = "too many clients are in their handshake";
    if (refused) {
        registry->refused++;
        registry_unlock(registry);
        *ret_text = g_strdup(refused);
        return NULL;
    }

    Client *client = g_new0(Client, 1);
    refs_init(&client->refs);
    client->registry = registry;
    client->id = ++registry->last_client;
    client->connected_at = g_get_real_time();
    client->listener = listener_entry_ref(listener);
    client->address = g_strdup(address);
    client->stop = stop;
    client->connection = connection;
    client->identities = g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
    g_hash_table_insert(registry->clients, &client->id, client);
    registry->accepted++;
    events_post_client(registry->events, "connected", client->id, NULL, address);
    registry_unlock(registry);
    return client;
}

Client *client_ref(Client *client)
{
    refs_take(&client->refs);
    return client;
}

void client_unref(Client *client)
{
    if (!client || !refs_drop(&client->refs))
        return;
    listener_entry_unref(client->listener);
    g_free(client->address);
    g_ptr_array_unref(client->identities);
    g_strfreev(client->features);
    if (client->promises)
        g_array_unref(client->promises);
    export_unref(client->export);
    g_free(client);
}

void client_add_identity(Client *client, const char *text)
{
    AllowIdentity *identity = allow_identity_new(text);
    registry_lock(client->registry);
    if (identity && client->identities->len < CLIENT_MAX_IDENTITIES)
        g_ptr_array_add(client->identities, g_steal_pointer(&identity));
    client->groups_resolved = false;
    registry_unlock(client->registry);
    allow_identity_free(identity);
}

void client_set_tls(Client *client, bool tls)
{
    registry_lock(client->registry);
    client->tls = tls;
    /* STARTTLS: what was negotiated before it is forgotten. */
    if (client->promises)
        g_array_set_size(client->promises, 0);
    registry_unlock(client->registry);
}

void client_closed(Client *client)
{
    Registry *registry = client->registry;
    registry_lock(registry);
    client->stop = NULL;
    g_hash_table_remove(registry->clients, &client->id);
    Export *export = client->export;
    io_stats_add(&registry->totals, &client->stats);
    if (export) {
        registry->served--;
        client->listener->clients--;
        g_ptr_array_remove(export->clients, client);
        if (!client->read_only)
            export->writers--;
        io_stats_add(export->totals, &client->stats);
    }
    events_post_client(registry->events, "disconnected", client->id,
                       export ? export->config->name : NULL, client->address);
    pthread_cond_broadcast(&registry->clients_changed);
    registry_unlock(registry);
}

void client_stop(Client *client, ClientStop how)
{
    client->stopping = true;
    if (client->stop)
        client->stop(client->connection, how);
}

void export_view_clear(ExportView *view)
{
    g_free(view->name);
    g_free(view->description);
    if (view->bitmaps)
        g_ptr_array_unref(view->bitmaps);
    if (view->disk)
        disk_unref(view->disk);
    memset(view, 0, sizeof(*view));
}

static void export_view_free(gpointer view)
{
    export_view_clear(view);
    g_free(view);
}

/* Takes the lock, with the client's groups looked up if any list may want them. That look-up can
 * be slow, so it happens outside; only the connection's own thread reads or changes the set. */
static void lock_with_groups(Client *client)
{
    Registry *registry = client->registry;
    registry_lock(registry);
    if (!registry->groups_wanted || client->groups_resolved)
        return;
    registry_unlock(registry);
    GPtrArray *fresh = g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
    for (guint i = 0; i < client->identities->len; i++) {
        AllowIdentity *identity =
            allow_identity_new(allow_identity_text(client->identities->pdata[i]));
        allow_identity_resolve(identity);
        g_ptr_array_add(fresh, identity);
    }
    registry_lock(registry);
    GPtrArray *old = client->identities;
    client->identities = fresh;
    client->groups_resolved = true;
    g_ptr_array_unref(old);
}

static bool listener_has_tls(const Client *client)
{
    return client->listener->tls_mode != LISTENER_TLS_NONE;
}

/* The bitmaps this export offers now, in order of names. */
static GPtrArray *offered_bitmaps(const ExportConfig *config, Disk *disk)
{
    GPtrArray *bitmaps = disk_list_bitmaps(disk);
    for (guint i = bitmaps->len; i > 0; i--) {
        Bitmap *bitmap = bitmaps->pdata[i - 1];
        if (!bitmap_is_offered(bitmap) || !export_config_shows_bitmap(config, bitmap_name(bitmap)))
            g_ptr_array_remove_index(bitmaps, i - 1);
    }
    return bitmaps;
}

static void fill_view(const Export *export, bool read_only, ExportView *view)
{
    Disk *disk = export->disk->disk;
    const Backend *backend = disk_backend(disk);
    *view = (ExportView){
        .name = g_strdup(export->config->name),
        .description = g_strdup(export->config->description),
        .size = disk_size(disk),
        .read_only = read_only,
        .multi_conn = export_multi_conn(export->config, read_only),
        .rotational = backend->rotational,
        .can_trim = backend->can_trim,
        .can_fast_zero = backend->can_fast_zero,
        .minimum_block = backend->minimum_block,
        .preferred_block = backend->preferred_block,
        .maximum_block = MAXIMUM_BLOCK,
        .bitmaps = offered_bitmaps(export->config, disk),
        .disk = disk_ref(disk),
    };
}

/* The export if it is there and can be offered at all, else NULL. */
static Export *find_offered(Registry *registry, const char *name)
{
    Export *export = registry_find_export(registry, name);
    return export && export->disk->disk ? export : NULL;
}

GPtrArray *client_visible_exports(Client *client)
{
    Registry *registry = client->registry;
    GPtrArray *views = g_ptr_array_new_with_free_func(export_view_free);
    lock_with_groups(client);
    if (registry->stopping) {
        registry_unlock(registry);
        g_ptr_array_unref(views);
        return NULL;
    }
    g_autoptr(GPtrArray) exports = registry_list_exports(registry);
    for (guint i = 0; i < exports->len; i++) {
        Export *export = exports->pdata[i];
        const ExportConfig *config = export->config;
        if (!export->disk->disk || export->removing || (config->tls_required && !client->tls) ||
            allow_list_match(config->allow, client->identities) == ALLOW_NOTHING)
            continue;
        ExportView *view = g_new0(ExportView, 1);
        view->name = g_strdup(config->name);
        view->description = g_strdup(config->description);
        g_ptr_array_add(views, view);
    }
    registry_unlock(registry);
    return views;
}

static ClientPromise *find_promise(Client *client, const char *export_name)
{
    for (guint i = 0; client->promises && i < client->promises->len; i++) {
        ClientPromise *promise = &g_array_index(client->promises, ClientPromise, i);
        if (g_str_equal(promise->export_name, export_name))
            return promise;
    }
    return NULL;
}

static void keep_promise(Client *client, Export *export, const ExportView *view)
{
    ClientPromise *promise = find_promise(client, view->name);
    if (!promise) {
        if (!client->promises) {
            client->promises = g_array_new(FALSE, TRUE, sizeof(ClientPromise));
            g_array_set_clear_func(client->promises, promise_clear);
        }
        if (client->promises->len == CLIENT_MAX_PROMISES)
            g_array_remove_index(client->promises, 0);
        g_array_set_size(client->promises, client->promises->len + 1);
        promise = &g_array_index(client->promises, ClientPromise, client->promises->len - 1);
        promise->export_name = g_strdup(view->name);
    }
    promise->export = export;
    promise->size = view->size;
    promise->read_only = view->read_only;
    promise->multi_conn = view->multi_conn;
}

Admission client_peek(Client *client, const char *export_name, ExportView *ret_view,
                      char **ret_text)
{
    Registry *registry = client->registry;
    Admission admission = ADMIT_UNKNOWN;
    lock_with_groups(client);
    Export *export = find_offered(registry, export_name);
    if (registry->stopping) {
        admission = ADMIT_SHUTDOWN;
    } else if (export) {
        /* Fullness does not count here, a writer that is there does. */
        Admitted admitted = {.clients = 0, .writers = export->writers};
        bool read_only;
        admission = export_admit(export->config, &admitted,
                                 allow_list_match(export->config->allow, client->identities),
                                 client->tls, listener_has_tls(client), false, &read_only, NULL);
        if (admission == ADMIT_OK && export->removing) {
            admission = ADMIT_POLICY;
            *ret_text = g_strdup_printf("export '%.80s' is being removed", export_name);
        }
        if (admission == ADMIT_OK) {
            fill_view(export, read_only, ret_view);
            keep_promise(client, export, ret_view);
        }
    }
    registry_unlock(registry);
    return admission;
}

/* The bounds that are not the export's own. */
static const char *over_limit(const Client *client)
{
    const Registry *registry = client->registry;
    const ListenerEntry *listener = client->listener;
    if (registry->served >= registry->limits.clients)
        return "the daemon serves as many clients as it may";
    if (listener->max_clients && listener->clients >= listener->max_clients)
        return "the listener serves as many clients as it may";
    return NULL;
}

Admission client_attach(Client *client, const char *export_name, ExportView *ret_view,
                        char **ret_text)
{
    Registry *registry = client->registry;
    Admission admission = ADMIT_UNKNOWN;
    ExportView view = {0};
    lock_with_groups(client);
    Export *export = find_offered(registry, export_name);
    if (registry->stopping || client->stopping) {
        admission = ADMIT_SHUTDOWN;
    } else if (export) {
        Admitted admitted = {.clients = export->clients->len, .writers = export->writers};
        const ClientPromise *promise = find_promise(client, export_name);
        bool read_only, keep_read_only = promise && promise->read_only;
        const char *refused = NULL;
        admission = export_admit(
            export->config, &admitted, allow_list_match(export->config->allow, client->identities),
            client->tls, listener_has_tls(client), keep_read_only, &read_only, ret_text);
        if (admission == ADMIT_OK && export->removing)
            refused = "the export is being removed";
        else if (admission == ADMIT_OK)
            refused = over_limit(client);
        if (admission == ADMIT_OK && !refused) {
            fill_view(export, read_only, &view);
            if (promise &&
                (promise->export != export || promise->size != view.size ||
                 promise->read_only != view.read_only || promise->multi_conn != view.multi_conn))
                refused = "the export has changed since NBD_OPT_INFO: ask again";
        }
        if (refused) {
            admission = ADMIT_POLICY;
            *ret_text = g_strdup(refused);
        }
    }
    if (admission == ADMIT_POLICY)
        registry->refused++;
    if (admission == ADMIT_OK) {
        client->export = export_ref(export);
        client->read_only = view.read_only;
        g_ptr_array_add(export->clients, client);
        if (!view.read_only)
            export->writers++;
        client->listener->clients++;
        registry->served++;
        *ret_view = view;
        events_post_client(registry->events, "attached", client->id, export_name, client->address);
    }
    registry_unlock(registry);
    if (admission != ADMIT_OK)
        export_view_clear(&view); /* may drop the last reference of a disk: not under the lock */
    return admission;
}

IoStats *client_stats(Client *client)
{
    return &client->stats;
}

void client_set_features(Client *client, const char *const *features)
{
    char **copy = g_strdupv((char **)features);
    registry_lock(client->registry);
    char **old = client->features;
    client->features = copy;
    registry_unlock(client->registry);
    g_strfreev(old);
}

TlsMaterial *client_tls_material(Client *client)
{
    TlsMaterial *material = NULL;
    registry_lock(client->registry);
    if (client->listener->credential) {
        Credential *credential =
            registry_find_credential(client->registry, client->listener->credential);
        if (credential && credential->material)
            material = tls_material_ref(credential->material);
    }
    registry_unlock(client->registry);
    return material;
}

void client_tls_failed(Client *client, const char *why)
{
    registry_lock(client->registry);
    client->registry->refused++;
    registry_unlock(client->registry);
    events_post_client(client->registry->events, "failed", client->id, NULL, why);
}

ClientTls client_tls_mode(Client *client)
{
    switch (client->listener->tls_mode) {
    case LISTENER_TLS_NONE:
        return CLIENT_TLS_NONE;
    case LISTENER_TLS_ALLOW:
        return CLIENT_TLS_ALLOW;
    case LISTENER_TLS_REQUIRE:
        return CLIENT_TLS_REQUIRE;
    }
    g_assert_not_reached();
}

Engine *client_engine(Client *client)
{
    return client->registry->engine;
}

const Limits *client_limits(Client *client)
{
    return &client->registry->limits;
}

uint64_t client_id(const Client *client)
{
    return client->id;
}
