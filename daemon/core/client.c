#include "daemon/core/client.h"
#include "daemon/core/registry_state.h"

/* Under the lock. One that has been told to go counts no more, but those have a bound, too: threads
 * may be slow to end. */
static bool make_way(Registry *registry)
{
    Client *client = handshakes_first_to_go(&registry->handshakes);
    if (!client || registry->giving_way >= registry->limits.handshakes)
        return false;
    handshakes_leave(&registry->handshakes, client);
    client->gave_way = true;
    registry->giving_way++;
    registry->refused++;
    client_stop(client, CLIENT_STOP_HARD);
    return true;
}

unsigned clients_make_way(Registry *registry, unsigned most)
{
    unsigned count = 0;
    registry_lock(registry);
    while (count < most && make_way(registry))
        count++;
    registry_unlock(registry);
    return count;
}

/* Under the lock. */
static bool has_room(Registry *registry)
{
    unsigned inside =
        g_hash_table_size(registry->clients) - registry->served - registry->giving_way;
    return inside < registry->limits.handshakes || make_way(registry);
}

Client *client_new(Registry *registry, const char *listener_name, const char *address,
                   const char *identity, ClientStopFunction stop, gpointer connection,
                   char **ret_text)
{
    AllowIdentity *first = identity ? allow_identity_new(identity) : NULL;
    registry_lock(registry);
    ListenerEntry *listener = registry_find_listener(registry, listener_name);
    const char *refused = NULL;
    if (registry->stopping)
        refused = "the daemon is stopping";
    else if (!listener)
        refused = "the listener is being removed";
    else if (!has_room(registry))
        refused = "too many clients are in their handshake";
    if (refused) {
        registry->refused++;
        registry_unlock(registry);
        allow_identity_free(first);
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
    if (first)
        g_ptr_array_add(client->identities, first);
    g_hash_table_insert(registry->clients, &client->id, client);
    handshakes_enter(&registry->handshakes, client, identity);
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

/* Under the lock; takes the identity out of *identity if there is room for it. */
static void add_identity(Client *client, AllowIdentity **identity, const char *text)
{
    if (*identity && client->identities->len < CLIENT_MAX_IDENTITIES)
        g_ptr_array_add(client->identities, g_steal_pointer(identity));
    client->groups_resolved = false;
    handshakes_prove(&client->registry->handshakes, client, text);
}

void client_add_identity(Client *client, const char *text)
{
    AllowIdentity *identity = allow_identity_new(text);
    registry_lock(client->registry);
    add_identity(client, &identity, text);
    registry_unlock(client->registry);
    allow_identity_free(identity);
}

/* Under the lock: what is in force for the client's listener, or NULL. */
static TlsMaterial *current_material(const Client *client)
{
    const char *name = client->listener->credential;
    const Credential *credential = name ? registry_find_credential(client->registry, name) : NULL;
    return credential ? credential->material : NULL;
}

bool client_enter_tls(Client *client, const TlsMaterial *material, const char *text)
{
    AllowIdentity *identity = text ? allow_identity_new(text) : NULL;
    registry_lock(client->registry);
    bool current = current_material(client) == material;
    if (current) {
        client->tls = true;
        /* STARTTLS: what was negotiated before it is forgotten. */
        if (client->promises)
            g_array_set_size(client->promises, 0);
        if (text)
            add_identity(client, &identity, text);
    }
    registry_unlock(client->registry);
    allow_identity_free(identity);
    return current;
}

void client_closed(Client *client)
{
    Registry *registry = client->registry;
    registry_lock(registry);
    client->stop = NULL;
    g_hash_table_remove(registry->clients, &client->id);
    handshakes_leave(&registry->handshakes, client);
    registry->giving_way -= client->gave_way;
    Export *export = g_steal_pointer(&client->export);
    io_stats_add(&registry->totals, &client->stats);
    client_leave_queue(client);
    if (export) {
        registry->served--;
        client_add_alike(client, -1);
        client->listener->clients--;
        g_ptr_array_remove(export->clients, client);
        if (!client->read_only)
            export->writers--;
        io_stats_add(export->totals, &client->stats);
        export_wake_first(export);
    }
    events_post_client(registry->events, "disconnected", client->id,
                       export ? export->config->name : NULL, client->address);
    /* Now, and not with the client, whose connection may linger: whoever is told that the export is
     * removed finds its file free. The registry has one that is not gone, too, so nothing closes
     * under the lock. */
    bool gone = export && export->gone;
    if (!gone)
        export_unref(export);
    pthread_cond_broadcast(&registry->clients_changed);
    registry_unlock(registry);
    if (gone)
        export_unref(export);
}

void client_stop(Client *client, ClientStop how)
{
    client->stopping = true;
    if (client->stop)
        client->stop(client->connection, how);
}

bool client_is_stopping(Client *client)
{
    registry_lock(client->registry);
    bool stopping = client->stopping;
    registry_unlock(client->registry);
    return stopping;
}

const char *client_identity(const Client *client)
{
    return allow_identity_best(client->identities);
}

static const char *identity_key(const Client *client)
{
    const char *identity = client_identity(client);
    return identity ? identity : "";
}

unsigned client_count_alike(const Client *client)
{
    return GPOINTER_TO_UINT(
        g_hash_table_lookup(client->registry->served_identities, identity_key(client)));
}

void client_add_alike(const Client *client, int difference)
{
    GHashTable *table = client->registry->served_identities;
    unsigned count = client_count_alike(client) + (unsigned)difference;
    if (count == 0)
        g_hash_table_remove(table, identity_key(client));
    else
        g_hash_table_replace(table, g_strdup(identity_key(client)), GUINT_TO_POINTER(count));
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
    registry_lock(client->registry);
    TlsMaterial *material = current_material(client);
    if (material)
        tls_material_ref(material);
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

Throttle *client_throttle(Client *client)
{
    return client->export->throttle;
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
