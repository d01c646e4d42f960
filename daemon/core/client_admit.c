/* What a client may see and use: the questions of its handshake. Who is admitted is decided in
 * admission.c, what happens at an export that is taken in client_queue.c. */
#include "daemon/core/client.h"
#include "daemon/core/client_groups.h"
#include "daemon/core/registry_state.h"

/* A request's payload is 32 MiB at most (design: protocol tables). */
#define MAXIMUM_BLOCK (32u * 1024 * 1024)

/* How many exports a list looks at before it lets others at the registry: there may be thousands,
 * each with a long list of who may use it, and anybody may ask, over and over. */
#define LIST_AT_ONCE 64

static void promise_clear(gpointer data)
{
    ClientPromise *promise = data;
    g_free(promise->export_name);
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

static uint32_t identity_limit(const Client *client)
{
    return (uint32_t)client->registry->limits.clients_per_identity;
}

/* The bounds that are not the export's would let it. */
static bool may_come_again(const Client *client)
{
    const Limits *limits = &client->registry->limits;
    return client->listener->max_clients != 1 && limits->clients > 1 &&
           limits->clients_per_identity_overall != 1;
}

static void fill_view(const Client *client, const Export *export, bool read_only, ExportView *view)
{
    Disk *disk = export->disk->disk;
    const Backend *backend = disk_backend(disk);
    *view = (ExportView){
        .name = g_strdup(export->config->name),
        .description = g_strdup(export->config->description),
        .size = disk_size(disk),
        .read_only = read_only,
        .multi_conn = may_come_again(client) &&
                      export_multi_conn(export->config, read_only, identity_limit(client)),
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

static bool is_visible(const Client *client, const Export *export)
{
    const ExportConfig *config = export->config;
    return export->disk->disk && !export->removing && (client->tls || !config->tls_required) &&
           allow_list_match(config->allow, client->identities) != ALLOW_NOTHING;
}

/* Under the lock: looks at some exports behind *name and moves it on. False: there are no more. */
static bool list_some(const Client *client, char **name, size_t bytes, GString *page)
{
    GSequenceIter *at = registry_exports_behind(client->registry, *name);
    const Export *export = NULL;
    for (unsigned i = 0; i < LIST_AT_ONCE && page->len < bytes; i++) {
        if (g_sequence_iter_is_end(at))
            return false;
        export = g_sequence_get(at);
        at = g_sequence_iter_next(at);
        if (!is_visible(client, export))
            continue;
        const ExportConfig *config = export->config;
        g_string_append_len(page, config->name, (gssize)strlen(config->name) + 1);
        g_string_append(page, config->description ? config->description : "");
        g_string_append_c(page, '\0');
    }
    g_free(*name);
    *name = g_strdup(export->config->name);
    return true;
}

GString *client_list_exports(Client *client, const char *after, size_t bytes)
{
    Registry *registry = client->registry;
    GString *page = g_string_sized_new(bytes);
    g_autofree char *name = g_strdup(after);
    bool more = true, stopping = false;
    while (more && !stopping && page->len < bytes) {
        client_lock_with_groups(client);
        stopping = registry->stopping;
        more = !stopping && list_some(client, &name, bytes, page);
        registry_unlock(registry);
    }
    if (stopping)
        g_string_free(g_steal_pointer(&page), TRUE);
    return page;
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
    client_lock_with_groups(client);
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
            fill_view(client, export, read_only, ret_view);
            keep_promise(client, export, ret_view);
        }
    }
    registry_unlock(registry);
    return admission;
}

/* The bounds that are not the export's own. NULL: none is reached. */
static const char *over_limit(const Client *client)
{
    const Registry *registry = client->registry;
    const ListenerEntry *listener = client->listener;
    uint64_t alike = registry->limits.clients_per_identity_overall;
    if (registry->served >= registry->limits.clients)
        return "the daemon serves as many clients as it may";
    if (listener->max_clients && listener->clients >= listener->max_clients)
        return "the listener serves as many clients as it may";
    if (alike > 0 && client_count_alike(client) >= alike)
        return "the daemon serves as many clients of this identity as it may "
               "(--max-clients-per-identity-overall)";
    return NULL;
}

/* Those who are connected, as far as they concern this client. */
static Admitted count_admitted(const Client *client, const Export *export)
{
    const char *identity = client_identity(client);
    Admitted admitted = {
        .clients = export->clients->len,
        .writers = export->writers,
        .waiting = export_count_waiting(export, client),
        .identity_limit = identity_limit(client),
    };
    bool bounded = admitted.identity_limit > 0 || export->config->max_clients_per_identity > 0;
    for (guint i = 0; bounded && i < export->clients->len; i++)
        admitted.of_identity +=
            g_strcmp0(client_identity(export->clients->pdata[i]), identity) == 0;
    return admitted;
}

/* All that decides about one export. ADMIT_OK fills *ret_view; ADMIT_POLICY sets *ret_text. */
static Admission consider(Client *client, Export *export, ExportView *ret_view, char **ret_text)
{
    const ExportConfig *config = export->config;
    Admitted admitted = count_admitted(client, export);
    const ClientPromise *promise = find_promise(client, config->name);
    bool read_only, keep_read_only = promise && promise->read_only;
    AllowRight right = allow_list_match(config->allow, client->identities);
    g_autofree char *text = NULL;
    Admission admission = export_admit(config, &admitted, right, client->tls,
                                       listener_has_tls(client), keep_read_only, &read_only, &text);
    const char *refused = NULL;
    if ((admission == ADMIT_OK || admission == ADMIT_BUSY) && export->removing)
        refused = "the export is being removed";
    else if (admission == ADMIT_OK)
        refused = over_limit(client);
    if (admission == ADMIT_OK && !refused) {
        fill_view(client, export, read_only, ret_view);
        if (promise && (promise->export != export || promise->size != ret_view->size ||
                        promise->read_only != ret_view->read_only ||
                        promise->multi_conn != ret_view->multi_conn))
            refused = "the export has changed since NBD_OPT_INFO: ask again";
    }
    if (refused) {
        *ret_text = g_strdup(refused);
        return ADMIT_POLICY;
    }
    if (admission == ADMIT_BUSY)
        return client_wait_for(client, export, ret_text);
    if (admission == ADMIT_POLICY)
        *ret_text = g_steal_pointer(&text);
    return admission;
}

static void take_slot(Client *client, Export *export, bool read_only)
{
    client->export = export_ref(export);
    client->read_only = read_only;
    g_ptr_array_add(export->clients, client);
    if (!read_only)
        export->writers++;
    client->listener->clients++;
    client->registry->served++;
    client_add_alike(client, 1);
    handshakes_leave(&client->registry->handshakes, client);
    events_post_client(client->registry->events, "attached", client->id, export->config->name,
                       client->address);
}

Admission client_attach(Client *client, const char *export_name, ExportView *ret_view,
                        char **ret_text)
{
    Registry *registry = client->registry;
    Admission admission = ADMIT_UNKNOWN;
    ExportView view = {0};
    client_lock_with_groups(client);
    Export *export = find_offered(registry, export_name);
    if (client->waiting_for != export)
        client_leave_queue(client); /* what it waited for has been removed */
    if (registry->stopping || client->stopping)
        admission = ADMIT_SHUTDOWN;
    else if (export)
        admission = consider(client, export, &view, ret_text);
    if (admission == ADMIT_POLICY)
        registry->refused++;
    if (admission == ADMIT_OK) {
        take_slot(client, export, view.read_only);
        *ret_view = view;
    }
    if (admission != ADMIT_BUSY)
        client_leave_queue(client);
    registry_unlock(registry);
    if (admission != ADMIT_OK)
        export_view_clear(&view); /* may drop the last reference of a disk: not under the lock */
    return admission;
}
