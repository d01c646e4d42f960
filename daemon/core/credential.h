/* A credential as the registry knows it: a name, where its material comes from, and the material
 * in force. Changed under the registry's lock; the material itself is immutable and swapped
 * (tls_material.h). Reference-counted. */
#ifndef CORE_CREDENTIAL_H
#define CORE_CREDENTIAL_H

#include "daemon/core/refs.h"
#include "daemon/core/tls_material.h"
#include <glib.h>

typedef struct {
    RefCount refs;
    char *name;
    TlsSource source;
    TlsMaterial *material; /* NULL when it could not be read at the start: see problem */
    char *problem;         /* why it failed, or why the last reload changed nothing; or NULL */
} Credential;

/* Takes copies and a reference of material (may be NULL). */
Credential *credential_new(const char *name, const TlsSource *source, TlsMaterial *material);
Credential *credential_ref(Credential *credential);
void credential_unref(Credential *credential); /* takes NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Credential, credential_unref)

#endif
