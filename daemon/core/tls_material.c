#include "daemon/core/tls_material.h"
#include "daemon/core/api_error.h"
#include "daemon/core/tls_private.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

/* No file of ours is anywhere near this; a device or a log given by mistake is not read in. */
#define FILE_MAX (4 * 1024 * 1024)

#define EXPIRY_WARNING_SECONDS (30 * 24 * 3600)

void tls_source_copy(const TlsSource *source, TlsSource *ret_copy)
{
    *ret_copy = (TlsSource){
        .kind = source->kind,
        .dir = g_strdup(source->dir),
        .keys = g_strdup(source->keys),
        .priority = g_strdup(source->priority),
        .verify_client = source->verify_client,
    };
}

void tls_source_clear(TlsSource *source)
{
    g_free(source->dir);
    g_free(source->keys);
    g_free(source->priority);
    *source = (TlsSource){0};
}

void tls_secret_clear(TlsSecret *secret)
{
    if (secret->data != NULL) {
        explicit_bzero(secret->data, secret->size);
        g_free(secret->data);
    }
    *secret = (TlsSecret){0};
}

static bool read_all(int fd, TlsSecret *secret)
{
    size_t done = 0;

    while (done < secret->size) {
        ssize_t got = read(fd, secret->data + done, secret->size - done);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            errno = got == 0 ? EIO : errno;
            return false;
        }
        done += (size_t)got;
    }
    return true;
}

bool tls_read_file(const char *path, TlsSecret *ret_secret, mode_t *ret_mode, GError **error)
{
    /* O_NONBLOCK: a FIFO must not hang the call. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    TlsSecret secret = {0};
    struct stat info;
    bool ok = false;

    if (fd < 0 || fstat(fd, &info) != 0) {
        api_error_set(error, ERROR_TLS, NULL, "cannot read %s: %s", path, g_strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        api_error_set(error, ERROR_TLS, NULL, "%s is not a regular file", path);
    } else if ((info.st_mode & S_IWOTH) != 0) {
        api_error_set(error, ERROR_TLS, NULL,
                      "%s may be written by everybody (mode %04o): take that away (chmod o-w)",
                      path, (unsigned)(info.st_mode & 07777));
    } else if (info.st_size == 0 || info.st_size > FILE_MAX) {
        api_error_set(error, ERROR_TLS, NULL, "%s has %lld bytes: expected 1 to %d", path,
                      (long long)info.st_size, FILE_MAX);
    } else {
        secret.size = (size_t)info.st_size;
        secret.data = g_malloc0(secret.size + 1); /* for who wants a string */
        ok = read_all(fd, &secret);
        if (!ok) {
            api_error_set(error, ERROR_TLS, NULL, "cannot read %s: %s", path, g_strerror(errno));
            tls_secret_clear(&secret);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    if (ok) {
        *ret_secret = secret;
        *ret_mode = info.st_mode;
    }
    return ok;
}

/* AES in hardware is on every server processor of today; without it ChaCha20 is the faster. */
static bool has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
    return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
#else
    return true;
#endif
}

#define VERSIONS      "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE"
#define AES_FIRST     ":-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
#define CHACHA_FIRST  ":-CIPHER-ALL:+CHACHA20-POLY1305:+AES-128-GCM:+AES-256-GCM"
#define PSK_EXCHANGES ":-KX-ALL:+ECDHE-PSK:+DHE-PSK"

const char *tls_default_priority(TlsKind kind)
{
    switch (kind) {
    case TLS_X509:
        return has_aes() ? VERSIONS AES_FIRST : VERSIONS CHACHA_FIRST;
    case TLS_PSK:
        return has_aes() ? VERSIONS AES_FIRST PSK_EXCHANGES : VERSIONS CHACHA_FIRST PSK_EXCHANGES;
    }
    return NULL;
}

/* A string of the user's is taken as it is, but for versions older than TLS 1.2. */
static bool load_priority(TlsMaterial *material, const TlsSource *source, GError **error)
{
    const char *text =
        source->priority != NULL ? source->priority : tls_default_priority(source->kind);
    const unsigned *versions;
    const char *at = text;
    int count;
    int result = gnutls_priority_init2(&material->priority, text, &at, 0);

    if (result < 0) {
        material->priority = NULL;
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/priority",
                      "priority \"%s\" is not a GnuTLS priority string (%s, at \"%s\")", text,
                      gnutls_strerror(result), at);
        return false;
    }
    count = gnutls_priority_protocol_list(material->priority, &versions);
    for (int i = 0; i < count; i++) {
        if (versions[i] != GNUTLS_TLS1_2 && versions[i] != GNUTLS_TLS1_3) {
            api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/priority",
                          "priority \"%s\" admits %s: only TLS 1.2 and 1.3 are served "
                          "(add \":-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2\")",
                          text, gnutls_protocol_get_name(versions[i]));
            return false;
        }
    }
    return true;
}

/* Whoever may write to the folder may put other files there. */
static void note_folder(TlsMaterial *material, const char *folder)
{
    struct stat info;

    if (stat(folder, &info) == 0 && (info.st_mode & S_IWOTH) != 0 &&
        (info.st_mode & S_ISVTX) == 0) {
        g_ptr_array_add(material->notes,
                        g_strdup_printf("%s may be written by everybody (chmod o-w)", folder));
    }
}

TlsMaterial *tls_material_load(const TlsSource *source, GError **error)
{
    g_autoptr(TlsMaterial) material = g_new0(TlsMaterial, 1);
    g_autofree char *folder = NULL;
    bool ok = false;

    refs_init(&material->refs);
    material->kind = source->kind;
    material->verify_client = source->verify_client;
    material->loaded_at = g_get_real_time();
    material->certificates = g_ptr_array_new_with_free_func(tls_certificate_free);
    material->notes = g_ptr_array_new_with_free_func(g_free);
    if (!load_priority(material, source, error)) {
        return NULL;
    }
    folder = source->kind == TLS_X509 ? g_strdup(source->dir) : g_path_get_dirname(source->keys);
    note_folder(material, folder);
    switch (source->kind) {
    case TLS_X509:
        ok = tls_x509_load(material, source->dir, error);
        break;
    case TLS_PSK:
        ok = tls_psk_load(material, source->keys, error);
        break;
    }
    return ok ? g_steal_pointer(&material) : NULL;
}

TlsMaterial *tls_material_ref(TlsMaterial *material)
{
    refs_take(&material->refs);
    return material;
}

void tls_material_unref(TlsMaterial *material)
{
    if (material == NULL || !refs_drop(&material->refs)) {
        return;
    }
    if (material->x509 != NULL) {
        gnutls_certificate_free_credentials(material->x509); /* GnuTLS wipes its private keys */
    }
    if (material->psk != NULL) {
        gnutls_psk_free_server_credentials(material->psk);
    }
    if (material->priority != NULL) {
        gnutls_priority_deinit(material->priority);
    }
    g_clear_pointer(&material->keys, g_hash_table_unref);
    g_ptr_array_unref(material->certificates);
    g_ptr_array_unref(material->notes);
    g_free(material);
}

int tls_material_use(TlsMaterial *material, gnutls_session_t session)
{
    int result = gnutls_priority_set(session, material->priority);

    if (result < 0) {
        return result;
    }
    switch (material->kind) {
    case TLS_X509:
        return tls_x509_use(material, session);
    case TLS_PSK:
        return tls_psk_use(material, session);
    }
    return GNUTLS_E_INTERNAL_ERROR;
}

int tls_material_check(const TlsMaterial *used, const TlsMaterial *now, gnutls_session_t session)
{
    if (used->kind != now->kind) {
        return GNUTLS_E_INSUFFICIENT_CREDENTIALS;
    }
    switch (now->kind) {
    case TLS_X509:
        return tls_x509_check(used, now, session);
    case TLS_PSK:
        return tls_psk_check(used, now, session);
    }
    return GNUTLS_E_INTERNAL_ERROR;
}

char *tls_material_identity(const TlsMaterial *material, gnutls_session_t session)
{
    switch (material->kind) {
    case TLS_X509:
        return tls_x509_identity(session);
    case TLS_PSK:
        return tls_psk_identity(session);
    }
    return NULL;
}

TlsKind tls_material_kind(const TlsMaterial *material)
{
    return material->kind;
}

int64_t tls_material_loaded_at(const TlsMaterial *material)
{
    return material->loaded_at;
}

const GPtrArray *tls_material_certificates(const TlsMaterial *material)
{
    return material->certificates;
}

uint32_t tls_material_users(const TlsMaterial *material)
{
    return material->keys != NULL ? g_hash_table_size(material->keys) : 0;
}

uint32_t tls_material_revocations(const TlsMaterial *material)
{
    return material->revocations;
}

static char *format_day(int64_t seconds)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(seconds);

    return time != NULL ? g_date_time_format(time, "%Y-%m-%d %H:%M UTC") : g_strdup("?");
}

char **tls_material_warnings(const TlsMaterial *material)
{
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    int64_t now = g_get_real_time() / G_USEC_PER_SEC;

    for (guint i = 0; i < material->notes->len; i++) {
        g_strv_builder_add(builder, g_ptr_array_index(material->notes, i));
    }
    for (guint i = 0; i < material->certificates->len; i++) {
        const TlsCertificate *cert = g_ptr_array_index(material->certificates, i);
        g_autofree char *day = format_day(cert->not_after);
        g_autofree char *text = NULL;

        if (cert->not_before > now) {
            g_autofree char *from = format_day(cert->not_before);
            text = g_strdup_printf("%s: %s is not valid yet (%s)", cert->file, cert->subject, from);
        } else if (cert->not_after < now) {
            text = g_strdup_printf("%s: %s has expired (%s)", cert->file, cert->subject, day);
        } else if (cert->not_after - now < EXPIRY_WARNING_SECONDS) {
            text = g_strdup_printf("%s: %s expires soon (%s)", cert->file, cert->subject, day);
        }
        if (text != NULL) {
            g_strv_builder_add(builder, text);
        }
    }
    if (material->crl_next_update != 0 && material->crl_next_update < now) {
        g_autofree char *day = format_day(material->crl_next_update);
        g_autofree char *text = g_strdup_printf(
            "ca-crl.pem is out of date (next update was due %s): clients are still checked against "
            "it",
            day);

        g_strv_builder_add(builder, text);
    }
    return g_strv_builder_end(builder);
}
