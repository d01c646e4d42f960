#include "daemon/core/evict.h"
#include "daemon/core/registry_state.h"

/* How long a client that was told to end may finish what is in flight. */
#define GRACE_SECONDS 2

GPtrArray *export_find_unadmitted(Export *export)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)client_unref);
    Admitted admitted = {0};
    g_autoptr(GHashTable) identities = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < export->clients->len; i++) {
        Client *client = export->clients->pdata[i];
        bool read_only;
        const char *identity = client_identity(client) ? client_identity(client) : "";
        admitted.of_identity = GPOINTER_TO_UINT(g_hash_table_lookup(identities, identity));
        admitted.identity_limit = (uint32_t)client->registry->limits.clients_per_identity;
        AllowRight right = allow_list_match(export->config->allow, client->identities);
        Admission admission = export_admit(export->config, &admitted, right, client->tls,
                                           client->listener->tls_mode != LISTENER_TLS_NONE,
                                           client->read_only, &read_only, NULL);
        /* One who writes cannot be turned into one who reads: it has seen its flags. */
        if (admission != ADMIT_OK || read_only != client->read_only) {
            g_ptr_array_add(list, client_ref(client));
            continue;
        }
        g_hash_table_insert(identities, (gpointer)identity,
                            GUINT_TO_POINTER(admitted.of_identity + 1));
        admitted.clients++;
        admitted.writers += !read_only;
    }
    return list;
}

static bool any_open(const GPtrArray *clients)
{
    for (guint i = 0; i < clients->len; i++) {
        if (((const Client *)clients->pdata[i])->stop)
            return true;
    }
    return false;
}

static void stop_and_wait(Registry *registry, GPtrArray *clients, ClientStop how, gint64 deadline)
{
    bool in_time = true;
    registry_lock(registry);
    for (guint i = 0; i < clients->len; i++)
        client_stop(clients->pdata[i], how);
    while (any_open(clients) && in_time)
        in_time = registry_wait(registry, &registry->clients_changed, deadline);
    registry_unlock(registry);
}

void clients_end(Registry *registry, GPtrArray *clients, gint64 drained, gint64 gone)
{
    if (clients->len == 0)
        return;
    if (drained >
        g_get_monotonic_time()) /* otherwise hard is meant, and nobody hears of draining */
        stop_and_wait(registry, clients, CLIENT_STOP_DRAIN, drained);
    stop_and_wait(registry, clients, CLIENT_STOP_HARD, gone);
}

typedef struct {
    Registry *registry;
    uint64_t id;
} Ending;

static gboolean end_hard(gpointer data)
{
    Ending *ending = data;
    registry_lock(ending->registry);
    Client *client = registry_find_client(ending->registry, ending->id);
    if (client)
        client_stop(client, CLIENT_STOP_HARD);
    registry_unlock(ending->registry);
    return G_SOURCE_REMOVE;
}

void client_end_soon(Client *client)
{
    Ending *ending = g_new0(Ending, 1);
    *ending = (Ending){client->registry, client->id};
    client_stop(client, CLIENT_STOP_DRAIN);
    g_timeout_add_seconds_full(G_PRIORITY_DEFAULT, GRACE_SECONDS, end_hard, ending, g_free);
}
