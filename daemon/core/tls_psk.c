/* Pre-shared keys. The table is kept in memory rather than left to GnuTLS, which would read the
 * file in every handshake: on our terms a change takes effect with a reload, and no handshake
 * waits for a disk. */
#include "daemon/core/api_error.h"
#include "daemon/core/tls_private.h"
#include <gnutls/crypto.h>
#include <string.h>

#define USER_MAX  255
#define KEY_MAX   1024 /* bytes */
#define USERS_MAX 100000

static void secret_free(gpointer data)
{
    tls_secret_clear(data);
    g_free(data);
}

static bool decode_hex(const char *text, TlsSecret *ret_key)
{
    size_t length = strlen(text);
    TlsSecret key = {.data = g_malloc0(KEY_MAX + 1), .size = length / 2};

    if (length == 0 || length % 2 != 0 || length / 2 > KEY_MAX) {
        key.size = KEY_MAX;
        tls_secret_clear(&key);
        return false;
    }
    for (size_t i = 0; i < key.size; i++) {
        int high = g_ascii_xdigit_value(text[2 * i]);
        int low = g_ascii_xdigit_value(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            tls_secret_clear(&key);
            return false;
        }
        key.data[i] = (unsigned char)(high * 16 + low);
    }
    *ret_key = key;
    return true;
}

/* One line, which this cuts up. The messages never quote what stands behind the colon. */
static bool add_line(TlsMaterial *material, const char *path, unsigned number, char *line,
                     GError **error)
{
    char *colon = strchr(line, ':');
    TlsSecret *key;

    if (colon == NULL || colon == line || colon - line > USER_MAX) {
        api_error_set(error, ERROR_TLS, NULL,
                      "%s, line %u: expected USER:KEY with a user of 1 to %d bytes", path, number,
                      USER_MAX);
        return false;
    }
    *colon = '\0';
    if (!g_utf8_validate(line, -1, NULL)) {
        api_error_set(error, ERROR_TLS, NULL, "%s, line %u: the user is not UTF-8", path, number);
        return false;
    }
    if (g_hash_table_contains(material->keys, line)) {
        api_error_set(error, ERROR_TLS, NULL, "%s, line %u: user \"%s\" is there twice", path,
                      number, line);
        return false;
    }
    if (g_hash_table_size(material->keys) >= USERS_MAX) {
        api_error_set(error, ERROR_TLS, NULL, "%s has more than %d users", path, USERS_MAX);
        return false;
    }
    key = g_new0(TlsSecret, 1);
    if (!decode_hex(colon + 1, key)) {
        g_free(key);
        api_error_set(error, ERROR_TLS, NULL,
                      "%s, line %u: the key of user \"%s\" is not 1 to %d bytes in hexadecimal",
                      path, number, line, KEY_MAX);
        return false;
    }
    g_hash_table_insert(material->keys, g_strdup(line), key);
    return true;
}

/* For a user that there is not: nobody has it. A handshake that fails must not tell which users
 * there are. */
#define NOBODYS_KEY 32

static int copy_key(const void *bytes, size_t size, gnutls_datum_t *ret_key)
{
    ret_key->data = gnutls_malloc((unsigned)size);
    if (ret_key->data == NULL) {
        return -1;
    }
    memcpy(ret_key->data, bytes, size);
    ret_key->size = (unsigned)size;
    return 0;
}

static int nobodys_key(gnutls_datum_t *ret_key)
{
    unsigned char bytes[NOBODYS_KEY];

    return gnutls_rnd(GNUTLS_RND_NONCE, bytes, sizeof(bytes)) < 0
               ? -1
               : copy_key(bytes, sizeof(bytes), ret_key);
}

/* GnuTLS asks for the key of a user. It frees what it is given with gnutls_free, after wiping. */
static int find_key(gnutls_session_t session, const gnutls_datum_t *user, gnutls_datum_t *ret_key)
{
    const TlsMaterial *material = gnutls_session_get_ptr(session);
    g_autofree char *name = NULL;
    const TlsSecret *key;

    if (user->size == 0 || user->size > USER_MAX || memchr(user->data, '\0', user->size) != NULL) {
        return nobodys_key(ret_key);
    }
    name = g_strndup((const char *)user->data, user->size);
    key = g_hash_table_lookup(material->keys, name);
    return key != NULL ? copy_key(key->data, key->size, ret_key) : nobodys_key(ret_key);
}

static char *psk_user(gnutls_session_t session)
{
    gnutls_datum_t user;

    if (gnutls_psk_server_get_username2(session, &user) < 0 || user.data == NULL) {
        return NULL;
    }
    return g_strndup((const char *)user.data, user.size);
}

bool tls_psk_load(TlsMaterial *material, const char *path, GError **error)
{
    g_auto(TlsSecret) text = {0};
    unsigned number = 0;
    mode_t mode;
    char *line, *next;

    if (!tls_read_file(path, &text, &mode, error)) {
        return false;
    }
    if ((mode & 0004) != 0) {
        g_ptr_array_add(material->notes,
                        g_strdup_printf("%s may be read by everybody (chmod o-r)", path));
    }
    if (strlen((const char *)text.data) != text.size) {
        api_error_set(error, ERROR_TLS, NULL, "%s contains a NUL byte: expected lines USER:KEY",
                      path);
        return false;
    }
    material->keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, secret_free);
    for (line = (char *)text.data; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL) {
            *next++ = '\0';
        }
        number++;
        line[strcspn(line, "\r")] = '\0';
        if (*line != '\0' && *line != '#' && !add_line(material, path, number, line, error)) {
            return false;
        }
    }
    if (g_hash_table_size(material->keys) == 0) {
        api_error_set(error, ERROR_TLS, NULL, "%s has no line USER:KEY", path);
        return false;
    }
    if (gnutls_psk_allocate_server_credentials(&material->psk) < 0) {
        material->psk = NULL;
        api_error_set(error, ERROR_TLS, NULL, "not enough memory for the keys of %s", path);
        return false;
    }
    gnutls_psk_set_server_credentials_function2(material->psk, find_key);
    return true;
}

/* The user is still there, with the same key. */
int tls_psk_check(const TlsMaterial *used, const TlsMaterial *now, gnutls_session_t session)
{
    g_autofree char *user = psk_user(session);
    const TlsSecret *before = user != NULL ? g_hash_table_lookup(used->keys, user) : NULL;
    const TlsSecret *after = user != NULL ? g_hash_table_lookup(now->keys, user) : NULL;
    bool same = before != NULL && after != NULL && before->size == after->size &&
                gnutls_memcmp(before->data, after->data, after->size) == 0;

    return same ? 0 : GNUTLS_E_INSUFFICIENT_CREDENTIALS;
}

int tls_psk_use(TlsMaterial *material, gnutls_session_t session)
{
    gnutls_session_set_ptr(session, material);
    return gnutls_credentials_set(session, GNUTLS_CRD_PSK, material->psk);
}

char *tls_psk_identity(gnutls_session_t session)
{
    g_autofree char *user = psk_user(session);

    return user != NULL ? g_strconcat("psk:", user, NULL) : NULL;
}
