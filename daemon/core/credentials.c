#include "daemon/core/credentials.h"
#include "daemon/core/api_error.h"
#include "daemon/core/blocking.h"
#include "daemon/core/registry_state.h"
#include <time.h>

#define MAX_CREDENTIALS 1024

/* How long a change waits for another one (whose files may be on a server that hangs). */
#define TURN_SECONDS 10

/* Credentials that are read at once at the start; as many may hang before others wait for them. */
#define RESTORE_AT_ONCE 16

static bool take_turn(Registry *registry, GError **error)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += TURN_SECONDS;
    if (pthread_mutex_timedlock(&registry->credential_lock, &until) == 0)
        return true;
    api_error_set(error, ERROR_TIMEOUT, NULL, "another change of credentials takes too long");
    return false;
}

static void end_turn(Registry *registry)
{
    pthread_mutex_unlock(&registry->credential_lock);
}

/* A reference, or NULL with *error set. */
static Credential *find(Registry *registry, const char *name, GError **error)
{
    registry_lock(registry);
    Credential *credential = registry_find_credential(registry, name);
    if (credential)
        credential_ref(credential);
    registry_unlock(registry);
    if (!credential)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "no credential is called '%s'", name);
    return credential;
}

/* --- the store --- */

typedef struct {
    const char *name;
    const TlsSource *source; /* NULL: delete */
} Row;

static bool write_row(StoreTxn *txn, gpointer data, GError **error)
{
    const Row *row = data;
    if (!row->source)
        return store_del_credential(txn, row->name, error);
    StoreCredential stored = {
        .name = (char *)row->name,
        .kind = (int)row->source->kind,
        .dir = row->source->dir,
        .keys = row->source->keys,
        .priority = row->source->priority,
        .verify_client = row->source->verify_client,
    };
    return store_put_credential(txn, &stored, error);
}

static bool store(Registry *registry, const char *name, const TlsSource *source, GError **error)
{
    Row row = {.name = name, .source = source};
    GError *local = NULL;
    if (store_transact(registry->store, write_row, &row, &local))
        return true;
    api_error_propagate(error, local, NULL);
    return false;
}

/* --- changes --- */

static bool source_equal(const TlsSource *a, const TlsSource *b)
{
    return a->kind == b->kind && a->verify_client == b->verify_client &&
           g_strcmp0(a->dir, b->dir) == 0 && g_strcmp0(a->keys, b->keys) == 0 &&
           g_strcmp0(a->priority, b->priority) == 0;
}

/* Nothing to do when *ret_same. */
static bool may_add(Registry *registry, const char *name, const TlsSource *source, bool same,
                    bool *ret_same, GError **error)
{
    registry_lock(registry);
    Credential *other = registry_find_credential(registry, name);
    bool full = g_hash_table_size(registry->credentials) >= MAX_CREDENTIALS;
    *ret_same = other && same && source_equal(&other->source, source);
    if (other && !*ret_same)
        api_error_set(error, ERROR_ALREADY_EXISTS, "/params/name",
                      same ? "a credential '%s' exists, with other settings"
                           : "a credential '%s' exists",
                      name);
    else if (!other && full)
        api_error_set(error, ERROR_LIMIT, NULL, "there are %d credentials, the most there may be",
                      MAX_CREDENTIALS);
    registry_unlock(registry);
    return *ret_same || (!other && !full);
}

static bool add(Registry *registry, const char *name, const TlsSource *source, bool same,
                bool dry_run, GError **error)
{
    bool exists;
    if (!may_add(registry, name, source, same, &exists, error))
        return false;
    if (exists)
        return true;
    g_autoptr(TlsMaterial) material = tls_material_load(source, error);
    if (!material)
        return false;
    if (dry_run)
        return true;
    if (!store(registry, name, source, error))
        return false;
    Credential *credential = credential_new(name, source, material);
    registry_lock(registry);
    g_hash_table_insert(registry->credentials, credential->name, credential);
    registry_unlock(registry);
    events_post(registry->events, TOPIC_TLS, "added", name, NULL, NULL);
    return true;
}

/* Ends the turn with what the change has made: nobody can have removed it yet. */
static void end_turn_with(Registry *registry, const char *name, bool good,
                          Credential **ret_credential)
{
    if (ret_credential)
        *ret_credential = good ? find(registry, name, NULL) : NULL;
    end_turn(registry);
}

bool credentials_add(Registry *registry, const char *name, const TlsSource *source, bool same,
                     bool dry_run, Credential **ret_credential, GError **error)
{
    if (!take_turn(registry, error))
        return false;
    bool good = add(registry, name, source, same, dry_run, error);
    end_turn_with(registry, name, good, ret_credential);
    return good;
}

static void note_problem(Registry *registry, Credential *credential, const char *problem)
{
    registry_lock(registry);
    g_free(credential->problem);
    credential->problem = g_strdup(problem);
    registry_unlock(registry);
    if (problem)
        events_post(registry->events, TOPIC_TLS, "problem", credential->name, NULL, problem);
}

/* Puts material and source in force. What is let go is freed outside the lock: keys are wiped. */
static void swap(Registry *registry, Credential *credential, const TlsSource *source,
                 TlsMaterial *material)
{
    TlsSource old_source = {0};
    registry_lock(registry);
    TlsMaterial *old = credential->material;
    credential->material = tls_material_ref(material);
    if (source) {
        old_source = credential->source;
        tls_source_copy(source, &credential->source);
    }
    g_clear_pointer(&credential->problem, g_free);
    registry_unlock(registry);
    tls_material_unref(old);
    tls_source_clear(&old_source);
    events_post(registry->events, TOPIC_TLS, "changed", credential->name, NULL, NULL);
}

/* With the turn, the credential's source does not change under us: no lock for reading it. */
static bool replace(Registry *registry, Credential *credential, const TlsSource *source,
                    GError **error)
{
    GError *local = NULL;
    g_autoptr(TlsMaterial) material =
        tls_material_load(source ? source : &credential->source, &local);
    if (material && (!source || store(registry, credential->name, source, &local)))
        swap(registry, credential, source, material);
    if (!local)
        return true;
    note_problem(registry, credential, local->message);
    g_propagate_error(error, local);
    return false;
}

static bool set(Registry *registry, const char *name, CredentialChange change, gconstpointer data,
                GError **error)
{
    g_autoptr(Credential) credential = find(registry, name, error);
    g_auto(TlsSource) source = {0};
    if (!credential)
        return false;
    if (!change)
        return replace(registry, credential, NULL, error);
    tls_source_copy(&credential->source, &source);
    return change(&source, data, error) && replace(registry, credential, &source, error);
}

bool credentials_set(Registry *registry, const char *name, CredentialChange change,
                     gconstpointer data, Credential **ret_credential, GError **error)
{
    if (!take_turn(registry, error))
        return false;
    bool good = set(registry, name, change, data, error);
    end_turn_with(registry, name, good, ret_credential);
    return good;
}

/* The listeners that use it, for the error. */
static char *users_of(Registry *registry, const char *name)
{
    GString *text = g_string_new(NULL);
    g_autoptr(GPtrArray) listeners = registry_list_listeners(registry);
    for (guint i = 0; i < listeners->len; i++) {
        const ListenerEntry *listener = listeners->pdata[i];
        if (g_strcmp0(listener->credential, name) == 0)
            g_string_append_printf(text, "%s'%s'", text->len > 0 ? ", " : "", listener->name);
    }
    return g_string_free(text, FALSE);
}

static bool remove_one(Registry *registry, const char *name, bool dry_run, GError **error)
{
    g_autoptr(Credential) credential = find(registry, name, error);
    if (!credential)
        return false;
    /* Out of the table first, so that no listener can begin to use it; back if the store fails. */
    registry_lock(registry);
    g_autofree char *users = users_of(registry, name);
    bool busy = *users != '\0';
    if (!busy && !dry_run)
        g_hash_table_remove(registry->credentials, name);
    registry_unlock(registry);
    if (busy) {
        api_error_set(error, ERROR_BUSY, "/params/name", "credential '%s' is used by listener %s",
                      name, users);
        return false;
    }
    if (dry_run)
        return true;
    if (!store(registry, name, NULL, error)) {
        registry_lock(registry);
        g_hash_table_insert(registry->credentials, credential->name, credential_ref(credential));
        registry_unlock(registry);
        return false;
    }
    events_post(registry->events, TOPIC_TLS, "removed", name, NULL, NULL);
    return true;
}

bool credentials_remove(Registry *registry, const char *name, bool dry_run, GError **error)
{
    if (!take_turn(registry, error))
        return false;
    bool good = remove_one(registry, name, dry_run, error);
    end_turn(registry);
    return good;
}

/* One that is there already was made by a change that came before these files answered. */
static void restore_one(gpointer item, gpointer data)
{
    Credential *credential = item;
    Registry *registry = data;
    g_auto(TlsSource) source = {0};
    registry_lock(registry);
    tls_source_copy(&credential->source, &source);
    registry_unlock(registry);

    g_autoptr(GError) problem = NULL;
    g_autoptr(TlsMaterial) material = tls_material_load(&source, &problem);
    registry_lock(registry);
    bool wanted =
        !credential->material && registry_find_credential(registry, credential->name) == credential;
    bool late = wanted && registry->credentials_loaded;
    if (wanted) {
        credential->material = g_steal_pointer(&material);
        g_free(credential->problem);
        credential->problem = problem ? g_strdup(problem->message) : NULL;
    }
    registry_unlock(registry);
    if (wanted && problem)
        g_warning("credential '%s': %s", credential->name, problem->message);
    if (late)
        events_post(registry->events, TOPIC_TLS, problem ? "problem" : "changed", credential->name,
                    NULL, problem ? problem->message : NULL);
}

static Credential *credential_from_row(const StoreCredential *row)
{
    TlsSource source = {
        .kind = row->kind == TLS_PSK ? TLS_PSK : TLS_X509,
        .dir = row->dir,
        .keys = row->keys,
        .priority = row->priority,
        .verify_client = row->verify_client,
    };
    Credential *credential = credential_new(row->name, &source, NULL);
    credential->problem = g_strdup("its files have not answered since the daemon started");
    return credential;
}

void credentials_restore(Registry *registry, const GPtrArray *rows, gint64 deadline)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)credential_unref);
    registry_lock(registry);
    for (guint i = 0; i < rows->len; i++) {
        Credential *credential = credential_from_row(rows->pdata[i]);
        g_hash_table_insert(registry->credentials, credential->name, credential);
        g_ptr_array_add(all, credential_ref(credential));
    }
    registry_unlock(registry);
    if (!run_all_until(all, restore_one, registry, RESTORE_AT_ONCE, deadline))
        g_warning("some credentials are still being read: their files do not answer");
    registry_lock(registry);
    registry->credentials_loaded = true;
    registry_unlock(registry);
}

void credentials_reload_all(Registry *registry)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)credential_unref);
    registry_lock(registry);
    g_autoptr(GPtrArray) list = registry_list_credentials(registry);
    for (guint i = 0; i < list->len; i++)
        g_ptr_array_add(all, credential_ref(list->pdata[i]));
    registry_unlock(registry);
    for (guint i = 0; i < all->len; i++) {
        Credential *credential = all->pdata[i];
        g_autoptr(GError) error = NULL;
        if (credentials_set(registry, credential->name, NULL, NULL, NULL, &error))
            g_message("credential '%s' was read again", credential->name);
        else
            g_warning("credential '%s' stays as it was: %s", credential->name, error->message);
    }
}
