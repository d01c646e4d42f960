/* TLS material: keys and certificates as they were read from their files at one moment, checked
 * and ready for handshakes. Immutable and reference-counted: a session keeps the material it began
 * with, so that a reload disturbs nobody who is connected. The last reference wipes the keys. */
#ifndef CORE_TLS_MATERIAL_H
#define CORE_TLS_MATERIAL_H

#include <glib.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum { TLS_X509 = 0, TLS_PSK = 1 } TlsKind; /* stored as a number: never renumber */

/* Where material comes from. Only paths cross the control socket, never key bytes. */
typedef struct {
    TlsKind kind;
    char *dir;          /* x509: ca-cert.pem server-cert.pem server-key.pem, ca-crl.pem if there */
    char *keys;         /* psk: lines USER:HEXKEY, as psktool writes them */
    char *priority;     /* GnuTLS priority string; NULL: tls_default_priority(kind) */
    bool verify_client; /* x509: a client must show a certificate that the CA signed */
} TlsSource;

void tls_source_copy(const TlsSource *source, TlsSource *ret_copy);
void tls_source_clear(TlsSource *source);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TlsSource, tls_source_clear)

/* One certificate of the set, for tls.show. Times are seconds since 1970. */
typedef struct {
    char *file, *subject, *issuer, *serial;
    char *fingerprint; /* SHA-256, hexadecimal with colons */
    int64_t not_before, not_after;
} TlsCertificate;

typedef struct TlsMaterial TlsMaterial;

/* Reads and checks everything: files usable, parsable, key and certificate a pair, certificate
 * signed by the CA, valid today, allowed to be a server's, the priority string right. Blocks on
 * files. API_ERROR of kind tls (a file is wrong: says which and why) or invalid-argument. */
TlsMaterial *tls_material_load(const TlsSource *source, GError **error);
TlsMaterial *tls_material_ref(TlsMaterial *material);
void tls_material_unref(TlsMaterial *material); /* takes NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsMaterial, tls_material_unref)

/* Sets priorities, credentials and what is asked of the client on a new server session. The
 * session must not outlive the material. 0 or a GnuTLS error. */
int tls_material_use(TlsMaterial *material, gnutls_session_t session);

/* Whether a client that has passed a handshake by `used` passes `now`, too, which has come into
 * force since. 0 or a GnuTLS error. */
int tls_material_check(const TlsMaterial *used, const TlsMaterial *now, gnutls_session_t session);

/* "x509:CN=alice,O=Acme" or "psk:bob" after a handshake; NULL when the client showed nothing. */
char *tls_material_identity(const TlsMaterial *material, gnutls_session_t session);

/* --- what tls.show tells: no key material --- */
TlsKind tls_material_kind(const TlsMaterial *material);
int64_t tls_material_loaded_at(const TlsMaterial *material); /* microseconds since 1970 */
const GPtrArray *tls_material_certificates(const TlsMaterial *material); /* of TlsCertificate */
uint32_t tls_material_users(const TlsMaterial *material);                /* PSK users */
uint32_t tls_material_revocations(const TlsMaterial *material);          /* serials in the CRL */
/* Warnings as of now (an expiry near, a list of revocations out of date, a key that others may
 * read): NULL-terminated, the caller's. */
char **tls_material_warnings(const TlsMaterial *material);

/* TLS 1.2 and 1.3 alone; the cipher that this processor does fastest first. */
const char *tls_default_priority(TlsKind kind);

#endif
