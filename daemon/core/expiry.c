#include "daemon/core/expiry.h"
#include "daemon/core/evict.h"
#include "daemon/core/registry_state.h"

/* The clock of the day may be set: it is looked at again after this at the latest. */
#define LOOK_AGAIN (60 * G_USEC_PER_SEC)

/* --- the timer --- */

static gboolean dispatch(GSource *source, GSourceFunc function, gpointer registry)
{
    g_source_set_ready_time(source, -1);
    expiry_run(registry, g_get_real_time());
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs timer = {.dispatch = dispatch};

/* Under the lock. Also when all that can end has ended: after the clock was set back it has not. */
static void arm(Registry *registry)
{
    if (!registry->expiry_timer)
        return;
    int64_t left = CLAMP(registry->expiry_next - g_get_real_time(), 0, LOOK_AGAIN);
    g_source_set_ready_time(registry->expiry_timer,
                            registry->any_expires ? g_get_monotonic_time() + left : -1);
}

void expiry_start(Registry *registry)
{
    GSource *source = g_source_new(&timer, sizeof(GSource));
    g_source_set_callback(source, NULL, registry, NULL);
    registry_lock(registry);
    registry->expiry_timer = source;
    arm(registry);
    registry_unlock(registry);
    g_source_attach(source, NULL);
}

void expiry_stop(Registry *registry)
{
    registry_lock(registry);
    GSource *source = g_steal_pointer(&registry->expiry_timer);
    registry_unlock(registry);
    if (!source)
        return;
    g_source_destroy(source);
    g_source_unref(source);
}

void expiry_note(Registry *registry, const AllowList *list)
{
    if (!list || !allow_list_any_ends(list))
        return;
    /* What was over when the list was made was never granted by it. What has ended on the way here
     * counts: it is dealt with at once. */
    int64_t made = allow_list_made_at(list);
    if (registry->expiry_next > made)
        registry->expiry_checked = MAX(registry->expiry_checked, made);
    registry->any_expires = true;
    registry->expiry_next =
        MIN(registry->expiry_next, allow_list_next_end(list, registry->expiry_checked));
    arm(registry);
}

/* --- what happens then --- */

/* What it may do by the list, held against what it does. */
static bool is_enough(AllowRight right, const Client *client)
{
    switch (right) {
    case ALLOW_NOTHING:
        return false;
    case ALLOW_READ:
        return client->read_only;
    case ALLOW_WRITE:
        return true;
    }
    g_assert_not_reached();
}

static void tell(Registry *registry, const Export *export, int64_t from, int64_t now)
{
    const AllowList *list = export->config->allow;
    const char *const *entries = allow_list_entries(list);
    for (size_t i = 0; entries[i]; i++) {
        if (!allow_list_has_ended(list, i, from) && allow_list_has_ended(list, i, now))
            events_post(registry->events, TOPIC_EXPORT, "expired", export->config->name,
                        export->config->disk, entries[i]);
    }
}

/* Only those whom the list admitted until now: others stay by earlier settings. Whose groups could
 * not be looked up is taken for one of them: no grant outlives its time. */
static void end_clients(Registry *registry, Export *export, int64_t from, int64_t now)
{
    const AllowList *list = export->config->allow;
    for (guint i = 0; i < export->clients->len; i++) {
        Client *client = export->clients->pdata[i];
        if (is_enough(allow_list_may_match_at(list, client->identities, from), client) &&
            !is_enough(allow_list_match_at(list, client->identities, now), client))
            client_end_soon(client);
    }
    export_wake_all(export);
}

void expiry_run(Registry *registry, int64_t now)
{
    registry_lock(registry);
    int64_t from = registry->expiry_checked, next = ALLOW_FOR_EVER;
    bool any = false;
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, registry->exports);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Export *export = value;
        const AllowList *list = export->config->allow;
        if (!list || !allow_list_any_ends(list))
            continue;
        any = true;
        if (allow_list_next_end(list, from) <= now) {
            tell(registry, export, from, now);
            end_clients(registry, export, from, now);
        }
        next = MIN(next, allow_list_next_end(list, now));
    }
    registry->expiry_checked = now;
    registry->expiry_next = next;
    registry->any_expires = any;
    arm(registry);
    registry_unlock(registry);
}
