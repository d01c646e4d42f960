/* Lists of revocations. GnuTLS takes any list and then looks in it by the issuer's name alone: one
 * that is another authority's would leave everybody in, and nobody would notice. */
#include "daemon/core/api_error.h"
#include "daemon/core/tls_private.h"
#include <errno.h>
#include <gnutls/x509.h>
#include <unistd.h>

typedef struct {
    gnutls_x509_crl_t *items;
    unsigned count;
} Lists;

static void lists_clear(Lists *lists)
{
    for (unsigned i = 0; i < lists->count; i++) {
        gnutls_x509_crl_deinit(lists->items[i]);
    }
    gnutls_free(lists->items);
    *lists = (Lists){0};
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Lists, lists_clear)

typedef enum { OTHER_NAME, OTHER_KEY, SIGNED } Verdict;

/* Weak algorithms and a key usage that does not mention lists are no fault here: what is looked for
 * is the wrong file, and GnuTLS heeds such lists. */
static Verdict judge_by(gnutls_x509_crl_t list, gnutls_x509_crt_t authority)
{
    unsigned status = 0;

    if (gnutls_x509_crl_check_issuer(list, authority) != 1) {
        return OTHER_NAME;
    }
    if (gnutls_x509_crl_verify(list, &authority, 1, GNUTLS_VERIFY_ALLOW_BROKEN, &status) < 0 ||
        (status & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNATURE_FAILURE)) != 0) {
        return OTHER_KEY;
    }
    return SIGNED;
}

/* Several authorities may have one name, when one has got a new key. */
static Verdict judge(gnutls_x509_crl_t list, const TlsCerts *authorities)
{
    Verdict best = OTHER_NAME;

    for (unsigned i = 0; i < authorities->count && best != SIGNED; i++) {
        best = MAX(best, judge_by(list, authorities->items[i]));
    }
    return best;
}

static char *format_issuer(gnutls_x509_crl_t list)
{
    gnutls_datum_t name = {0};
    char *text;

    if (gnutls_x509_crl_get_issuer_dn3(list, &name, 0) < 0) {
        return g_strdup("?");
    }
    text = g_utf8_make_valid((const char *)name.data, (gssize)name.size);
    gnutls_free(name.data);
    return text;
}

static bool check(const char *path, const Lists *lists, const char *ca_path, const TlsCerts *ca,
                  const TlsCerts *chain, GError **error)
{
    for (unsigned i = 0; i < lists->count; i++) {
        /* Authorities between those of ca_path and the server stand in its chain. */
        Verdict verdict = MAX(judge(lists->items[i], ca), judge(lists->items[i], chain));
        g_autofree char *issuer = format_issuer(lists->items[i]);

        switch (verdict) {
        case OTHER_NAME:
            api_error_set(error, ERROR_TLS, NULL,
                          "%s has a list of revocations of %s, which is no authority of %s", path,
                          issuer, ca_path);
            return false;
        case OTHER_KEY:
            api_error_set(
                error, ERROR_TLS, NULL,
                "%s has a list of revocations of %s that another key has signed than that "
                "of the authority of this name in %s",
                path, issuer, ca_path);
            return false;
        case SIGNED:
            break;
        }
    }
    return true;
}

static void count(TlsMaterial *material, const Lists *lists)
{
    for (unsigned i = 0; i < lists->count; i++) {
        int64_t next = gnutls_x509_crl_get_next_update(lists->items[i]);
        int serials = gnutls_x509_crl_get_crt_count(lists->items[i]);

        material->revocations += serials > 0 ? (uint32_t)serials : 0;
        if (next > 0 && (material->crl_next_update == 0 || next < material->crl_next_update)) {
            material->crl_next_update = next;
        }
    }
}

bool tls_crl_load(TlsMaterial *material, const char *path, const char *ca_path, const TlsCerts *ca,
                  const TlsCerts *chain, GError **error)
{
    g_auto(TlsSecret) text = {0};
    g_auto(Lists) lists = {0};
    gnutls_datum_t data;
    mode_t mode;
    int result;

    if (access(path, F_OK) != 0 && errno == ENOENT) {
        return true;
    }
    if (!tls_read_file(path, &text, &mode, error)) {
        return false;
    }
    data = (gnutls_datum_t){.data = text.data, .size = (unsigned)text.size};
    result =
        gnutls_x509_crl_list_import2(&lists.items, &lists.count, &data, GNUTLS_X509_FMT_PEM, 0);
    if (result >= 0 && !check(path, &lists, ca_path, ca, chain, error)) {
        return false;
    }
    if (result >= 0) {
        result = gnutls_certificate_set_x509_crl(material->x509, lists.items, (int)lists.count);
    }
    if (result < 0) {
        api_error_set(error, ERROR_TLS, NULL,
                      "%s is not a list of revocations (CRL) in PEM format: %s", path,
                      gnutls_strerror(result));
        return false;
    }
    count(material, &lists);
    return true;
}
