#include "daemon/core/client_groups.h"
#include "daemon/core/blocking.h"
#include "daemon/core/registry_state.h"

/* Identities by their text, of which the groups are looked up outside the lock. A copy: the call
 * may be left behind. */
static GHashTable *lookup_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                 (GDestroyNotify)allow_identity_free);
}

static void lookup_add(GHashTable *lookup, const Client *client)
{
    for (guint i = 0; i < client->identities->len; i++) {
        const AllowIdentity *identity = client->identities->pdata[i];
        const char *text = allow_identity_text(identity);
        if (!allow_identity_may_have_groups(identity) || g_hash_table_contains(lookup, text))
            continue;
        AllowIdentity *copy = allow_identity_new(text);
        g_hash_table_insert(lookup, (gpointer)allow_identity_text(copy), copy);
    }
}

static void lookup_run(gpointer data)
{
    GHashTableIter iter;
    gpointer identity;
    g_hash_table_iter_init(&iter, data);
    while (g_hash_table_iter_next(&iter, NULL, &identity))
        allow_identity_resolve(identity);
}

/* Under the lock. lookup NULL: it was not to be had. */
static void take_groups(Client *client, GHashTable *lookup)
{
    for (guint i = 0; i < client->identities->len; i++) {
        AllowIdentity *identity = client->identities->pdata[i];
        allow_identity_take_groups(
            identity, lookup ? g_hash_table_lookup(lookup, allow_identity_text(identity)) : NULL);
    }
    client->groups_resolved = lookup != NULL;
}

void client_lock_with_groups(Client *client)
{
    Registry *registry = client->registry;
    registry_lock(registry);
    if (!registry->groups_wanted || client->groups_resolved)
        return;
    registry_unlock(registry);
    /* Nobody else changes which identities there are. */
    g_autoptr(GHashTable) lookup = lookup_new();
    lookup_add(lookup, client);
    lookup_run(lookup);
    registry_lock(registry);
    take_groups(client, lookup);
}

static GPtrArray *find_clients(const Export *export, bool anew, GHashTable *lookup)
{
    GPtrArray *clients = g_ptr_array_new_with_free_func((GDestroyNotify)client_unref);
    for (guint i = 0; i < export->clients->len; i++) {
        Client *client = export->clients->pdata[i];
        if (client->groups_resolved && !anew)
            continue;
        lookup_add(lookup, client);
        g_ptr_array_add(clients, client_ref(client));
    }
    return clients;
}

void export_look_up_groups(Registry *registry, Export *export, bool anew, gint64 deadline)
{
    GHashTable *lookup = lookup_new();
    registry_lock(registry);
    registry->groups_wanted = true; /* so those who connect meanwhile look up their own */
    g_autoptr(GPtrArray) clients = find_clients(export, anew, lookup);
    registry_unlock(registry);
    bool found = clients->len == 0 ||
                 run_until(lookup_run, lookup, (GDestroyNotify)g_hash_table_unref, deadline, NULL);
    registry_lock(registry);
    for (guint i = 0; i < clients->len; i++)
        take_groups(clients->pdata[i], found ? lookup : NULL);
    registry_unlock(registry);
    if (found)
        g_hash_table_unref(lookup);
}
