/* Who waits for an exclusive export, and who takes it over.
 *
 * An export has its waiters in the order in which they came; the first one alone may take the slot
 * or, with `steal`, make it free. Waiters are in their handshake: they count as that, and each has
 * its own deadline. Everything here is under the registry's lock. */
#include "daemon/core/client.h"
#include "daemon/core/registry_state.h"

/* How long a connection that is replaced may take to answer what it has read. One whose peer is
 * dead cannot, and is then ended hard. */
#define REPLACED_GRACE (250 * 1000)

static bool find_place(const Export *export, const Client *client, guint *ret_place)
{
    return g_ptr_array_find(export->waiters, client, ret_place);
}

unsigned export_count_waiting(const Export *export, const Client *client)
{
    guint place;
    return find_place(export, client, &place) ? place : export->waiters->len;
}

static void wake(Client *client)
{
    if (client->wake && client->stop)
        client->wake(client->connection);
}

void export_wake_first(Export *export)
{
    if (export->waiters->len > 0)
        wake(export->waiters->pdata[0]);
}

void export_wake_all(Export *export)
{
    for (guint i = 0; i < export->waiters->len; i++)
        wake(export->waiters->pdata[i]);
}

void client_leave_queue(Client *client)
{
    Export *export = g_steal_pointer(&client->waiting_for);
    guint place;
    if (!export || !find_place(export, client, &place))
        return;
    g_ptr_array_remove_index(export->waiters, place);
    if (place == 0)
        export_wake_first(export);
}

void export_dismiss_waiters(Export *export)
{
    for (guint i = 0; i < export->waiters->len; i++) {
        Client *client = export->waiters->pdata[i];
        client->waiting_for = NULL;
        wake(client);
    }
    g_ptr_array_set_size(export->waiters, 0);
}

static void join_queue(Client *client, Export *export)
{
    client->ask_again = G_MAXINT64;
    if (client->waiting_for)
        return;
    client->waiting_for = export;
    g_ptr_array_add(export->waiters, client);
    events_post_client(client->registry->events, "waiting", client->id, export->config->name,
                       client->address);
}

/* The same identity by what says best who they are; and nobody in plaintext takes the place of one
 * who came with TLS. */
static bool may_replace(const Client *newer, const Client *older)
{
    const char *identity = client_identity(newer);
    return identity && g_strcmp0(identity, client_identity(older)) == 0 &&
           (newer->tls || !older->tls);
}

static bool may_steal(const Client *client, const Export *export)
{
    unsigned ahead = export_count_waiting(export, client);
    bool may = true;
    for (guint i = 0; i < export->clients->len; i++)
        may &= may_replace(client, export->clients->pdata[i]);
    for (guint i = 0; i < ahead; i++)
        may &= may_replace(client, export->waiters->pdata[i]);
    return may;
}

/* What it has asked for is finished, so that the newer one finds it done. */
static void replace(Client *older, gint64 now, gint64 *ask_again)
{
    if (older->replaced_at == 0) {
        older->replaced_at = now;
        events_post_client(older->registry->events, "replaced", older->id,
                           older->export->config->name, older->address);
        client_stop(older, CLIENT_STOP_DRAIN);
    }
    if (now - older->replaced_at >= REPLACED_GRACE)
        client_stop(older, CLIENT_STOP_HARD);
    else
        *ask_again = MIN(*ask_again, older->replaced_at + REPLACED_GRACE);
}

static Admission steal(Client *client, Export *export, char **ret_text)
{
    if (!may_steal(client, export)) {
        *ret_text = g_strdup_printf("export '%.80s' is exclusive and has a client of another "
                                    "identity",
                                    export->config->name);
        return ADMIT_POLICY;
    }
    join_queue(client, export);
    if (export_count_waiting(export, client) == 0) {
        gint64 now = g_get_monotonic_time();
        for (guint i = 0; i < export->clients->len; i++)
            replace(export->clients->pdata[i], now, &client->ask_again);
    }
    return ADMIT_BUSY;
}

Admission client_wait_for(Client *client, Export *export, char **ret_text)
{
    switch (export->config->on_busy) {
    case EXPORT_ON_BUSY_REFUSE:
        *ret_text = g_strdup_printf("export '%.80s' is exclusive and has a client already",
                                    export->config->name);
        return ADMIT_POLICY;
    case EXPORT_ON_BUSY_WAIT:
        join_queue(client, export);
        return ADMIT_BUSY;
    case EXPORT_ON_BUSY_STEAL:
        return steal(client, export, ret_text);
    }
    g_assert_not_reached();
}

void client_set_wake(Client *client, ClientWakeFunction function)
{
    registry_lock(client->registry);
    client->wake = function;
    registry_unlock(client->registry);
}

gint64 client_ask_again(Client *client)
{
    registry_lock(client->registry);
    gint64 when = client->ask_again;
    registry_unlock(client->registry);
    return when;
}

char *client_stop_waiting(Client *client)
{
    registry_lock(client->registry);
    const Export *export = client->waiting_for;
    char *text = NULL;
    if (export) {
        text = g_strdup_printf("export '%.80s' is exclusive, and its client has not gone in time",
                               export->config->name);
        client->registry->refused++;
    }
    client_leave_queue(client);
    registry_unlock(client->registry);
    return text;
}
