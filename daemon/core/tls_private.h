/* What tls_material.c, tls_x509.c, tls_crl.c and tls_psk.c share. Nobody else includes it. */
#ifndef CORE_TLS_PRIVATE_H
#define CORE_TLS_PRIVATE_H

#include "daemon/core/refs.h"
#include "daemon/core/tls_material.h"
#include <gnutls/x509.h>
#include <sys/types.h>

struct TlsMaterial {
    RefCount refs;
    TlsKind kind;
    bool verify_client;
    int64_t loaded_at;
    gnutls_priority_t priority;
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk;
    GHashTable *keys; /* psk: user -> TlsSecret*; read-only once loaded */
    GPtrArray *certificates, *notes;
    uint32_t revocations;
    int64_t crl_next_update; /* seconds since 1970; 0: none */
};

/* Bytes that are wiped when they are let go. data ends with a NUL that size does not count. */
typedef struct {
    unsigned char *data;
    size_t size;
} TlsSecret;
void tls_secret_clear(TlsSecret *secret);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TlsSecret, tls_secret_clear)

/* Refuses what is no regular file, empty, far too large, or writable by everybody. */
bool tls_read_file(const char *path, TlsSecret *ret_secret, mode_t *ret_mode, GError **error);

/* A parsed PEM file of certificates. */
typedef struct {
    gnutls_x509_crt_t *items;
    unsigned count;
} TlsCerts;

/* What ca-crl.pem revokes, if there is one. Each list in it must be signed by an authority. */
bool tls_crl_load(TlsMaterial *material, const char *path, const char *ca_path, const TlsCerts *ca,
                  const TlsCerts *chain, GError **error);

void tls_certificate_free(gpointer certificate);

bool tls_x509_load(TlsMaterial *material, const char *dir, GError **error);
int tls_x509_use(TlsMaterial *material, gnutls_session_t session);
int tls_x509_check(const TlsMaterial *used, const TlsMaterial *now, gnutls_session_t session);
char *tls_x509_identity(gnutls_session_t session);

bool tls_psk_load(TlsMaterial *material, const char *path, GError **error);
int tls_psk_use(TlsMaterial *material, gnutls_session_t session);
int tls_psk_check(const TlsMaterial *used, const TlsMaterial *now, gnutls_session_t session);
char *tls_psk_identity(gnutls_session_t session);

#endif
