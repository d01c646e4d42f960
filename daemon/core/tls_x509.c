/* X.509 sets, under the names that QEMU and libvirt use. */
#include "daemon/core/api_error.h"
#include "daemon/core/tls_private.h"
#include <gnutls/x509.h>
#include <string.h>

#define CHAIN_MAX 16   /* certificates in server-cert.pem */
#define CA_MAX    1024 /* in ca-cert.pem */

static void certs_clear(TlsCerts *certs)
{
    for (unsigned i = 0; i < certs->count; i++) {
        gnutls_x509_crt_deinit(certs->items[i]);
    }
    gnutls_free(certs->items);
    *certs = (TlsCerts){0};
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TlsCerts, certs_clear)

void tls_certificate_free(gpointer data)
{
    TlsCertificate *certificate = data;

    g_free(certificate->file);
    g_free(certificate->subject);
    g_free(certificate->issuer);
    g_free(certificate->serial);
    g_free(certificate->fingerprint);
    g_free(certificate);
}

static char *format_hex(const unsigned char *bytes, size_t size)
{
    GString *text = g_string_new(NULL);

    for (size_t i = 0; i < size; i++) {
        g_string_append_printf(text, "%s%02X", i > 0 ? ":" : "", bytes[i]);
    }
    return g_string_free(text, FALSE);
}

static char *format_name(gnutls_x509_crt_t cert,
                         int (*get)(gnutls_x509_crt_t, gnutls_datum_t *, unsigned))
{
    gnutls_datum_t name = {0};
    char *text;

    if (get(cert, &name, 0) < 0) {
        return g_strdup("");
    }
    text = g_utf8_make_valid((const char *)name.data, (gssize)name.size);
    gnutls_free(name.data);
    return text;
}

static void describe(TlsMaterial *material, const char *file, gnutls_x509_crt_t cert)
{
    TlsCertificate *row = g_new0(TlsCertificate, 1);
    unsigned char bytes[64];
    size_t size = sizeof(bytes);

    row->file = g_strdup(file);
    row->subject = format_name(cert, gnutls_x509_crt_get_dn3);
    row->issuer = format_name(cert, gnutls_x509_crt_get_issuer_dn3);
    row->serial =
        gnutls_x509_crt_get_serial(cert, bytes, &size) < 0 ? g_strdup("") : format_hex(bytes, size);
    size = sizeof(bytes);
    row->fingerprint = gnutls_x509_crt_get_fingerprint(cert, GNUTLS_DIG_SHA256, bytes, &size) < 0
                           ? g_strdup("")
                           : format_hex(bytes, size);
    row->not_before = gnutls_x509_crt_get_activation_time(cert);
    row->not_after = gnutls_x509_crt_get_expiration_time(cert);
    g_ptr_array_add(material->certificates, row);
}

static bool parse_certs(const char *path, const TlsSecret *text, unsigned max, TlsCerts *ret_certs,
                        GError **error)
{
    gnutls_datum_t data = {.data = text->data, .size = (unsigned)text->size};
    TlsCerts certs = {0};
    int result =
        gnutls_x509_crt_list_import2(&certs.items, &certs.count, &data, GNUTLS_X509_FMT_PEM, 0);

    if (result < 0) {
        api_error_set(error, ERROR_TLS, NULL, "%s is not a certificate in PEM format: %s", path,
                      gnutls_strerror(result));
        return false;
    }
    if (certs.count == 0 || certs.count > max) {
        api_error_set(error, ERROR_TLS, NULL, "%s has %u certificates: expected 1 to %u", path,
                      certs.count, max);
        certs_clear(&certs);
        return false;
    }
    *ret_certs = certs;
    return true;
}

static bool check_times(const char *path, gnutls_x509_crt_t cert, GError **error)
{
    time_t now = (time_t)(g_get_real_time() / G_USEC_PER_SEC);
    time_t from = gnutls_x509_crt_get_activation_time(cert);
    time_t until = gnutls_x509_crt_get_expiration_time(cert);
    bool expired = until < now;

    if (expired || from > now) {
        g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(expired ? until : from);
        g_autofree char *day = time != NULL ? g_date_time_format_iso8601(time) : g_strdup("?");

        api_error_set(error, ERROR_TLS, NULL, "%s: the certificate %s %s", path,
                      expired ? "expired at" : "is not valid before", day);
        return false;
    }
    return true;
}

/* A usage extension that is absent allows everything. */
static bool may_serve(gnutls_x509_crt_t cert)
{
    char oid[128];
    bool any = false;

    for (unsigned i = 0;; i++) {
        size_t size = sizeof(oid);

        if (gnutls_x509_crt_get_key_purpose_oid(cert, i, oid, &size, NULL) < 0) {
            return !any;
        }
        any = true;
        if (strcmp(oid, GNUTLS_KP_TLS_WWW_SERVER) == 0 || strcmp(oid, GNUTLS_KP_ANY) == 0) {
            return true;
        }
    }
}

/* One of several authorities may be out of date or not yet in use: that is how they are replaced.
 * Who hangs on it is refused by GnuTLS, and tls.show warns. */
static bool check_ca(const char *path, const TlsCerts *ca, GError **error)
{
    g_autoptr(GError) first = NULL;
    bool any_valid = false;

    for (unsigned i = 0; i < ca->count; i++) {
        unsigned critical, usage;

        any_valid |= check_times(path, ca->items[i], first == NULL ? &first : NULL);
        if (gnutls_x509_crt_get_ca_status(ca->items[i], &critical) == 0) {
            api_error_set(error, ERROR_TLS, NULL,
                          "%s: the certificate says that it is not one of an authority (CA)", path);
            return false;
        }
        if (gnutls_x509_crt_get_key_usage(ca->items[i], &usage, &critical) == 0 &&
            (usage & GNUTLS_KEY_KEY_CERT_SIGN) == 0) {
            api_error_set(error, ERROR_TLS, NULL,
                          "%s: the certificate's key usage does not allow signing others", path);
            return false;
        }
    }
    if (!any_valid) {
        g_propagate_error(error, g_steal_pointer(&first));
    }
    return any_valid;
}

static bool check_chain(const char *path, const TlsCerts *chain, const char *ca_path,
                        const TlsCerts *ca, GError **error)
{
    unsigned status = 0;
    gnutls_datum_t reason = {0};
    int result;

    if (!check_times(path, chain->items[0], error)) {
        return false;
    }
    if (!may_serve(chain->items[0])) {
        api_error_set(error, ERROR_TLS, NULL,
                      "%s: the certificate's extended key usage does not include a TLS server's",
                      path);
        return false;
    }
    result = gnutls_x509_crt_list_verify(chain->items, (int)chain->count, ca->items, (int)ca->count,
                                         NULL, 0, 0, &status);
    if (result < 0) {
        api_error_set(error, ERROR_TLS, NULL, "%s cannot be checked against %s: %s", path, ca_path,
                      gnutls_strerror(result));
        return false;
    }
    if (status != 0) {
        if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &reason, 0) < 0) {
            reason.data = NULL;
        }
        api_error_set(error, ERROR_TLS, NULL, "%s is not trusted by %s: %s", path, ca_path,
                      reason.data != NULL ? g_strstrip((char *)reason.data) : "not verified");
        gnutls_free(reason.data);
        return false;
    }
    return true;
}

/* Key and certificate are a pair: GnuTLS checks that when they are set together. */
static bool set_key(TlsMaterial *material, const char *cert_path, const char *key_path,
                    const TlsSecret *cert, GError **error)
{
    g_auto(TlsSecret) key = {0};
    gnutls_datum_t cert_data = {.data = cert->data, .size = (unsigned)cert->size};
    gnutls_datum_t key_data;
    mode_t mode;
    int result;

    if (!tls_read_file(key_path, &key, &mode, error)) {
        return false;
    }
    if ((mode & 0004) != 0) {
        g_ptr_array_add(material->notes,
                        g_strdup_printf("%s may be read by everybody (chmod o-r)", key_path));
    }
    key_data = (gnutls_datum_t){.data = key.data, .size = (unsigned)key.size};
    result = gnutls_certificate_set_x509_key_mem2(material->x509, &cert_data, &key_data,
                                                  GNUTLS_X509_FMT_PEM, NULL, 0);
    if (result == GNUTLS_E_CERTIFICATE_KEY_MISMATCH) {
        api_error_set(error, ERROR_TLS, NULL, "%s is not the key of the certificate in %s",
                      key_path, cert_path);
    } else if (result == GNUTLS_E_DECRYPTION_FAILED) {
        api_error_set(error, ERROR_TLS, NULL,
                      "%s is protected by a password: a daemon needs it without one", key_path);
    } else if (result < 0) {
        api_error_set(error, ERROR_TLS, NULL, "%s is not a private key in PEM format: %s", key_path,
                      gnutls_strerror(result));
    }
    return result >= 0;
}

bool tls_x509_load(TlsMaterial *material, const char *dir, GError **error)
{
    g_autofree char *ca_path = g_build_filename(dir, "ca-cert.pem", NULL);
    g_autofree char *cert_path = g_build_filename(dir, "server-cert.pem", NULL);
    g_autofree char *key_path = g_build_filename(dir, "server-key.pem", NULL);
    g_autofree char *crl_path = g_build_filename(dir, "ca-crl.pem", NULL);
    g_auto(TlsSecret) ca_text = {0};
    g_auto(TlsSecret) cert_text = {0};
    g_auto(TlsCerts) ca = {0};
    g_auto(TlsCerts) chain = {0};
    mode_t mode;
    int result;

    if (!tls_read_file(ca_path, &ca_text, &mode, error) ||
        !tls_read_file(cert_path, &cert_text, &mode, error) ||
        !parse_certs(ca_path, &ca_text, CA_MAX, &ca, error) ||
        !parse_certs(cert_path, &cert_text, CHAIN_MAX, &chain, error) ||
        !check_ca(ca_path, &ca, error) || !check_chain(cert_path, &chain, ca_path, &ca, error)) {
        return false;
    }
    if (gnutls_certificate_allocate_credentials(&material->x509) < 0) {
        material->x509 = NULL;
        api_error_set(error, ERROR_TLS, NULL, "not enough memory for the certificates in %s", dir);
        return false;
    }
    result = gnutls_certificate_set_x509_trust(material->x509, ca.items, (int)ca.count);
    if (result < 0) {
        api_error_set(error, ERROR_TLS, NULL, "%s cannot be used: %s", ca_path,
                      gnutls_strerror(result));
        return false;
    }
    if (!set_key(material, cert_path, key_path, &cert_text, error) ||
        !tls_crl_load(material, crl_path, ca_path, &ca, &chain, error)) {
        return false;
    }
    for (unsigned i = 0; i < chain.count; i++) {
        describe(material, cert_path, chain.items[i]);
    }
    for (unsigned i = 0; i < ca.count; i++) {
        describe(material, ca_path, ca.items[i]);
    }
    return true;
}

/* The client's certificate must be signed by the CA, valid, not revoked, and a client's. */
static int verify_client(gnutls_session_t session)
{
    gnutls_typed_vdata_st data = {
        .type = GNUTLS_DT_KEY_PURPOSE_OID,
        .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT,
        .size = strlen(GNUTLS_KP_TLS_WWW_CLIENT),
    };
    unsigned status = 0;

    if (gnutls_certificate_verify_peers(session, &data, 1, &status) < 0) {
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    /* A list of revocations past its date still revokes. Refusing every client for its age would
     * turn a late cron job into an outage: tls.show warns instead. */
    if (status == (GNUTLS_CERT_INVALID | GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED)) {
        status = 0;
    }
    return status == 0 ? 0 : GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
}

int tls_x509_use(TlsMaterial *material, gnutls_session_t session)
{
    int result = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, material->x509);

    if (result >= 0 && material->verify_client) {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_function(session, verify_client);
    } else if (result >= 0) {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_IGNORE);
    }
    return result;
}

/* GnuTLS verifies by what is set on the session: for the moment that is the other material. */
int tls_x509_check(const TlsMaterial *used, const TlsMaterial *now, gnutls_session_t session)
{
    int result, restored;

    if (!now->verify_client) {
        return 0;
    }
    result = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, now->x509);
    if (result >= 0) {
        result = verify_client(session);
    }
    restored = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, used->x509);
    return result < 0 ? result : restored;
}

char *tls_x509_identity(gnutls_session_t session)
{
    unsigned count = 0;
    const gnutls_datum_t *raw = gnutls_certificate_get_peers(session, &count);
    gnutls_x509_crt_t cert;
    g_autofree char *name = NULL;

    if (raw == NULL || count == 0 || gnutls_x509_crt_init(&cert) < 0) {
        return NULL;
    }
    if (gnutls_x509_crt_import(cert, &raw[0], GNUTLS_X509_FMT_DER) >= 0) {
        name = format_name(cert, gnutls_x509_crt_get_dn3);
    }
    gnutls_x509_crt_deinit(cert);
    return name != NULL ? g_strconcat("x509:", name, NULL) : NULL;
}
