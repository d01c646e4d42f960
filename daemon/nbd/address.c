#include "daemon/nbd/address.h"
#include "storage/error.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#define FORMS "an address is unix:PATH, tcp:HOST:PORT or tcp:[IPV6]:PORT"

static bool parse_unix(const char *path, Address *address, GError **error)
{
    if (*path == '\0') {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID, "unix: has no path: " FORMS);
        return false;
    }
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    size_t longest = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
    if (strlen(absolute) > longest) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                    "the path %s is longer than a Unix socket allows (%zu bytes)", absolute,
                    longest);
        return false;
    }
    address->kind = ADDRESS_UNIX;
    address->path = g_steal_pointer(&absolute);
    return true;
}

static bool parse_port(const char *text, uint16_t *ret_port, GError **error)
{
    uint32_t port = 0;
    size_t length = strlen(text);
    bool good = length > 0 && length <= 5;
    for (size_t i = 0; good && i < length; i++) {
        good = g_ascii_isdigit(text[i]);
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    if (!good || port > UINT16_MAX) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                    "'%s' is not a port: 0 to 65535, 0 takes a free one", text);
        return false;
    }
    *ret_port = (uint16_t)port;
    return true;
}

/* "fe80::1%eth0": the scope is checked when the socket is bound. */
static bool is_ipv6(const char *host)
{
    const char *scope = strchr(host, '%');
    g_autofree char *plain = scope ? g_strndup(host, (gsize)(scope - host)) : g_strdup(host);
    struct in6_addr ignored;
    return inet_pton(AF_INET6, plain, &ignored) == 1 && (scope == NULL || scope[1] != '\0');
}

static bool is_host(const char *host)
{
    if (strcmp(host, "*") == 0)
        return true;
    for (const char *c = host; *c != '\0'; c++)
        if (!g_ascii_isalnum(*c) && strchr(".-_", *c) == NULL)
            return false;
    return *host != '\0' && strlen(host) <= 255;
}

static bool parse_tcp(const char *text, Address *address, GError **error)
{
    g_autofree char *host = NULL;
    const char *port_text;
    if (*text == '[') {
        const char *end = strchr(text, ']');
        if (end == NULL || end[1] != ':') {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                        "'tcp:%s' has no ]:PORT at its end: " FORMS, text);
            return false;
        }
        host = g_strndup(text + 1, (gsize)(end - text - 1));
        port_text = end + 2;
        if (!is_ipv6(host)) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                        "'%s' in brackets is not an IPv6 address", host);
            return false;
        }
    } else {
        const char *colon = strrchr(text, ':');
        if (colon == NULL) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID, "'tcp:%s' has no port: " FORMS,
                        text);
            return false;
        }
        host = g_strndup(text, (gsize)(colon - text));
        port_text = colon + 1;
        if (strchr(host, ':') != NULL) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                        "an IPv6 address needs brackets: tcp:[%s]:%s", host, port_text);
            return false;
        }
        if (!is_host(host)) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                        "'%s' is not a host: a name, an address, or * for every address", host);
            return false;
        }
    }
    if (!parse_port(port_text, &address->port, error))
        return false;
    address->kind = ADDRESS_TCP;
    address->host = g_steal_pointer(&host);
    return true;
}

bool address_parse(const char *text, Address *ret_address, GError **error)
{
    Address address = {0};
    bool good;
    if (g_str_has_prefix(text, "unix:")) {
        good = parse_unix(text + strlen("unix:"), &address, error);
    } else if (g_str_has_prefix(text, "tcp:")) {
        good = parse_tcp(text + strlen("tcp:"), &address, error);
    } else {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID, "'%s': " FORMS, text);
        good = false;
    }
    if (good)
        *ret_address = address;
    return good;
}

void address_clear(Address *address)
{
    g_clear_pointer(&address->path, g_free);
    g_clear_pointer(&address->host, g_free);
}

char *address_format(const Address *address, uint16_t port)
{
    if (address->kind == ADDRESS_UNIX)
        return g_strdup_printf("unix:%s", address->path);
    bool brackets = strchr(address->host, ':') != NULL;
    return g_strdup_printf(brackets ? "tcp:[%s]:%u" : "tcp:%s:%u", address->host, port);
}

/* The numeric address of an IP peer, and whether it is written in brackets. */
static char *peer_host(const struct sockaddr_storage *peer, bool *ret_v6, uint16_t *ret_port)
{
    char text[INET6_ADDRSTRLEN];
    if (peer->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)peer;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        *ret_v6 = false;
        *ret_port = ntohs(in->sin_port);
        return g_strdup(text);
    }
    if (peer->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)peer;
        bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
        if (mapped)
            inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, text, sizeof text);
        else
            inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
        *ret_v6 = !mapped;
        *ret_port = ntohs(in6->sin6_port);
        return g_strdup(text);
    }
    return NULL;
}

char *address_of_peer(const struct sockaddr_storage *peer)
{
    bool v6 = false;
    uint16_t port = 0;
    g_autofree char *host = peer_host(peer, &v6, &port);
    if (host == NULL)
        return NULL;
    return g_strdup_printf(v6 ? "tcp:[%s]:%u" : "tcp:%s:%u", host, port);
}

char *address_identity(const struct sockaddr_storage *peer)
{
    bool v6 = false;
    uint16_t port = 0;
    g_autofree char *host = peer_host(peer, &v6, &port);
    return host ? g_strdup_printf("ip:%s", host) : NULL;
}
