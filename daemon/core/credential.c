#include "daemon/core/credential.h"

Credential *credential_new(const char *name, const TlsSource *source, TlsMaterial *material)
{
    Credential *credential = g_new0(Credential, 1);

    refs_init(&credential->refs);
    credential->name = g_strdup(name);
    tls_source_copy(source, &credential->source);
    credential->material = material != NULL ? tls_material_ref(material) : NULL;
    return credential;
}

Credential *credential_ref(Credential *credential)
{
    refs_take(&credential->refs);
    return credential;
}

void credential_unref(Credential *credential)
{
    if (credential == NULL || !refs_drop(&credential->refs)) {
        return;
    }
    g_free(credential->name);
    tls_source_clear(&credential->source);
    tls_material_unref(credential->material);
    g_free(credential->problem);
    g_free(credential);
}
