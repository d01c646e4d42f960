/* Methods of credentials. Only paths come in, and only names, dates and fingerprints go out. */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/credentials.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"

static char **listeners_of(Registry *registry, const char *name)
{
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    g_autoptr(GPtrArray) listeners = registry_list_listeners(registry);
    for (guint i = 0; i < listeners->len; i++) {
        const ListenerEntry *listener = listeners->pdata[i];
        if (g_strcmp0(listener->credential, name) == 0)
            g_strv_builder_add(names, listener->name);
    }
    return g_strv_builder_end(names);
}

static TlsCertificateObject *describe_certificate(const TlsCertificate *certificate)
{
    TlsCertificateObject *object = g_new0(TlsCertificateObject, 1);
    object->file = g_strdup(certificate->file);
    object->subject = g_strdup(certificate->subject);
    object->issuer = g_strdup(certificate->issuer);
    object->serial = g_strdup(certificate->serial);
    object->fingerprint = g_strdup(certificate->fingerprint);
    object->not_before = time_text(certificate->not_before * G_USEC_PER_SEC);
    object->not_after = time_text(certificate->not_after * G_USEC_PER_SEC);
    return object;
}

static void describe_material(const TlsMaterial *material, CredentialObject *object)
{
    const GPtrArray *certificates = tls_material_certificates(material);
    for (guint i = 0; i < certificates->len; i++)
        g_ptr_array_add(object->certificates, describe_certificate(certificates->pdata[i]));
    object->loaded_at = time_text(tls_material_loaded_at(material));
    object->users = tls_material_users(material);
    object->revoked = tls_material_revocations(material);
    g_strfreev(object->warnings);
    object->warnings = tls_material_warnings(material);
}

static void describe_source(const char *name, const TlsSource *source, CredentialObject *object)
{
    *object = (CredentialObject){
        .name = g_strdup(name),
        .kind = source->kind == TLS_PSK ? API_TLS_KIND_PSK : API_TLS_KIND_X509,
        .dir = g_strdup(source->dir),
        .keys = g_strdup(source->keys),
        .verify_client = source->verify_client,
        .priority = g_strdup(source->priority),
        .state = API_CREDENTIAL_STATE_READY,
        .certificates = g_ptr_array_new_with_free_func((GDestroyNotify)tls_certificate_object_free),
        .warnings = g_new0(char *, 1),
    };
}

/* Under the registry's lock. */
static void describe(Registry *registry, const Credential *credential, CredentialObject *object)
{
    describe_source(credential->name, &credential->source, object);
    if (credential->material)
        describe_material(credential->material, object);
    else
        object->state = API_CREDENTIAL_STATE_FAILED;
    object->problem = g_strdup(credential->problem);
    object->listeners = listeners_of(registry, credential->name);
}

/* Also one that has been removed meanwhile. */
static void show_changed(Registry *registry, const Credential *credential, CredentialObject *object)
{
    registry_lock(registry);
    describe(registry, credential, object);
    registry_unlock(registry);
}

static bool show(Registry *registry, const char *name, CredentialObject *object, GError **error)
{
    registry_lock(registry);
    const Credential *credential = registry_find_credential(registry, name);
    if (credential)
        describe(registry, credential, object);
    registry_unlock(registry);
    if (!credential)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "no credential is called '%s'", name);
    return credential != NULL;
}

/* What a dry run answers: the object that would be, without what only its files tell. */
static bool show_planned(Registry *registry, const char *name, const TlsSource *source,
                         CredentialObject *object, GError **error)
{
    g_autoptr(TlsMaterial) material = tls_material_load(source, error);
    if (!material)
        return false;
    describe_source(name, source, object);
    describe_material(material, object);
    registry_lock(registry);
    object->listeners = listeners_of(registry, name);
    registry_unlock(registry);
    return true;
}

/* Each kind has settings of its own. */
static bool check_source(const TlsSource *source, bool has_verify_client, GError **error)
{
    const char *path = NULL, *text = NULL;
    switch (source->kind) {
    case TLS_X509:
        if (!source->dir)
            path = "/params/dir", text = "an x509 credential needs `dir`, the folder of its files";
        else if (source->keys)
            path = "/params/keys", text = "`keys` belongs to kind psk; x509 has `dir`";
        break;
    case TLS_PSK:
        if (!source->keys)
            path = "/params/keys", text = "a psk credential needs `keys`, the file with its keys";
        else if (source->dir)
            path = "/params/dir", text = "`dir` belongs to kind x509; psk has `keys`";
        else if (has_verify_client && source->verify_client)
            path = "/params/verify_client",
            text =
                "`verify_client` belongs to kind x509: with psk every client is known by its key";
        break;
    }
    if (text)
        api_error_set(error, ERROR_INVALID_ARGUMENT, path, "%s", text);
    return text == NULL;
}

bool method_tls_add(Call *call, const TlsAddParams *params, TlsAddResult *result, GError **error)
{
    Registry *registry = call_registry(call);
    TlsSource source = {
        .kind = params->kind == API_TLS_KIND_PSK ? TLS_PSK : TLS_X509,
        .dir = params->dir,
        .keys = params->keys,
        .priority = params->priority,
        .verify_client = params->verify_client,
    };
    g_autoptr(Credential) credential = NULL;
    if (!check_source(&source, params->has_verify_client, error) ||
        !credentials_add(registry, params->name, &source, params->if_exists == API_IF_EXISTS_SAME,
                         params->dry_run, &credential, error))
        return false;
    if (params->dry_run)
        return show_planned(registry, params->name, &source, result, error);
    show_changed(registry, credential, result);
    return true;
}

static bool copy_source(Registry *registry, const char *name, TlsSource *ret_source, GError **error)
{
    registry_lock(registry);
    const Credential *credential = registry_find_credential(registry, name);
    if (credential)
        tls_source_copy(&credential->source, ret_source);
    registry_unlock(registry);
    if (!credential)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "no credential is called '%s'", name);
    return credential != NULL;
}

/* A CredentialChange. */
static bool apply_params(TlsSource *source, gconstpointer data, GError **error)
{
    const TlsSetParams *params = data;
    if (params->dir)
        g_free(source->dir), source->dir = g_strdup(params->dir);
    if (params->keys)
        g_free(source->keys), source->keys = g_strdup(params->keys);
    if (params->has_priority)
        g_free(source->priority), source->priority = g_strdup(params->priority);
    if (params->has_verify_client)
        source->verify_client = params->verify_client;
    return check_source(source, params->has_verify_client, error);
}

static bool change(Registry *registry, const char *name, CredentialChange function,
                   gconstpointer data, CredentialObject *object, GError **error)
{
    g_autoptr(Credential) credential = NULL;
    if (!credentials_set(registry, name, function, data, &credential, error))
        return false;
    show_changed(registry, credential, object);
    return true;
}

bool method_tls_set(Call *call, const TlsSetParams *params, TlsSetResult *result, GError **error)
{
    Registry *registry = call_registry(call);
    g_auto(TlsSource) source = {0};
    if (!params->dry_run)
        return change(registry, params->name, apply_params, params, result, error);
    return copy_source(registry, params->name, &source, error) &&
           apply_params(&source, params, error) &&
           show_planned(registry, params->name, &source, result, error);
}

bool method_tls_reload(Call *call, const TlsReloadParams *params, TlsReloadResult *result,
                       GError **error)
{
    Registry *registry = call_registry(call);
    g_auto(TlsSource) source = {0};
    if (!params->dry_run)
        return change(registry, params->name, NULL, NULL, result, error);
    return copy_source(registry, params->name, &source, error) &&
           show_planned(registry, params->name, &source, result, error);
}

bool method_tls_remove(Call *call, const TlsRemoveParams *params, TlsRemoveResult *result,
                       GError **error)
{
    g_autoptr(GError) local = NULL;
    bool removed = credentials_remove(call_registry(call), params->name, params->dry_run, &local);
    if (!removed && !(params->missing_ok && g_error_matches(local, API_ERROR, ERROR_NOT_FOUND))) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    result->name = g_strdup(params->name);
    result->removed = removed;
    return true;
}

bool method_tls_show(Call *call, const TlsShowParams *params, TlsShowResult *result, GError **error)
{
    return show(call_registry(call), params->name, result, error);
}

static const char *key_of(gconstpointer credential)
{
    return ((const Credential *)credential)->name;
}

bool method_tls_list(Call *call, const TlsListParams *params, TlsListResult *result, GError **error)
{
    Registry *registry = call_registry(call);
    result->credentials = g_ptr_array_new_with_free_func((GDestroyNotify)credential_object_free);
    registry_lock(registry);
    g_autoptr(GPtrArray) list = registry_list_credentials(registry);
    guint end, begin = page_begin(list, params->cursor, params->limit, key_of, &end);
    for (guint i = begin; i < end; i++) {
        CredentialObject *object = g_new0(CredentialObject, 1);
        describe(registry, list->pdata[i], object);
        g_ptr_array_add(result->credentials, object);
    }
    result->next_cursor = page_next(list, begin, end, key_of);
    registry_unlock(registry);
    return true;
}
