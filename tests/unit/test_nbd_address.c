#include "daemon/nbd/address.h"
#include "storage/error.h"
#include "tests/unit/check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

/* The text is an address, and is written back so. */
static void check_good(const char *text, const char *formatted)
{
    Address address;
    GError *error = NULL;
    if (!address_parse(text, &address, &error))
        fail_msg("%s: %s", text, error->message);
    g_autofree char *back = address_format(&address, address.port);
    assert_string_equal(back, formatted);
    address_clear(&address);
}

/* It is none, and the error has this in it. */
static void check_bad(const char *text, const char *words)
{
    Address address = {.port = 4711};
    g_autoptr(GError) error = NULL;
    if (address_parse(text, &address, &error))
        fail_msg("%s was taken for an address", text);
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_INVALID));
    if (strstr(error->message, words) == NULL)
        fail_msg("%s: '%s' lacks '%s'", text, error->message, words);
    assert_int_equal(address.port, 4711);
}

static void test_unix(void **state)
{
    g_autofree char *here = g_get_current_dir();
    g_autofree char *relative = g_strdup_printf("unix:%s/s", here);
    check_good("unix:/run/x.sock", "unix:/run/x.sock");
    check_good("unix:/run/a b:c", "unix:/run/a b:c");
    check_good("unix:s", relative);
    check_bad("unix:", "no path");
}

static void test_unix_length(void **state)
{
    g_autofree char *longest = g_strnfill(107, 'x');
    longest[0] = '/';
    g_autofree char *good = g_strconcat("unix:", longest, NULL);
    g_autofree char *bad = g_strconcat("unix:", longest, "x", NULL);
    check_good(good, good);
    check_bad(bad, "107 bytes");
}

static void test_tcp(void **state)
{
    check_good("tcp:127.0.0.1:10809", "tcp:127.0.0.1:10809");
    check_good("tcp:localhost:0", "tcp:localhost:0");
    check_good("tcp:*:65535", "tcp:*:65535");
    check_good("tcp:[::1]:10809", "tcp:[::1]:10809");
    check_good("tcp:[fe80::1%eth0]:1", "tcp:[fe80::1%eth0]:1");
    check_good("tcp:a-b.example.org:80", "tcp:a-b.example.org:80");
}

static void test_tcp_wrong(void **state)
{
    check_bad("", "unix:PATH");
    check_bad("/run/x", "unix:PATH");
    check_bad("udp:x:1", "unix:PATH");
    check_bad("tcp:", "no port");
    check_bad("tcp:localhost", "no port");
    check_bad("tcp::10809", "not a host");
    check_bad("tcp:ho st:1", "not a host");
    check_bad("tcp:::1:10809", "brackets");
    check_bad("tcp:[::1]", "no ]:PORT");
    check_bad("tcp:[::1]10809", "no ]:PORT");
    check_bad("tcp:[::1", "no ]:PORT");
    check_bad("tcp:[127.0.0.1]:1", "not an IPv6");
    check_bad("tcp:[]:1", "not an IPv6");
    check_bad("tcp:[fe80::1%]:1", "not an IPv6");
    check_bad("tcp:h:", "not a port");
    check_bad("tcp:h:65536", "not a port");
    check_bad("tcp:h:-1", "not a port");
    check_bad("tcp:h:+1", "not a port");
    check_bad("tcp:h:1x", "not a port");
    check_bad("tcp:h:0x10", "not a port");
    check_bad("tcp:h:000080", "not a port");
    check_bad("tcp:h: 80", "not a port");
}

static void check_peer(const struct sockaddr_storage *peer, const char *address,
                       const char *identity)
{
    g_autofree char *a = address_of_peer(peer), *i = address_identity(peer);
    assert_string_equal(a, address);
    assert_string_equal(i, identity);
}

static void test_peer(void **state)
{
    struct sockaddr_storage peer = {.ss_family = AF_INET};
    struct sockaddr_in *in = (struct sockaddr_in *)&peer;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&peer;
    in->sin_port = htons(1234);
    inet_pton(AF_INET, "192.0.2.1", &in->sin_addr);
    check_peer(&peer, "tcp:192.0.2.1:1234", "ip:192.0.2.1");

    memset(&peer, 0, sizeof peer);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(1);
    inet_pton(AF_INET6, "2001:db8::1", &in6->sin6_addr);
    check_peer(&peer, "tcp:[2001:db8::1]:1", "ip:2001:db8::1");

    /* IPv4 through an IPv6 socket is the IPv4 address that an allow list names. */
    inet_pton(AF_INET6, "::ffff:192.0.2.7", &in6->sin6_addr);
    check_peer(&peer, "tcp:192.0.2.7:1", "ip:192.0.2.7");

    peer.ss_family = AF_UNIX;
    assert_null(address_of_peer(&peer));
    assert_null(address_identity(&peer));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix), cmocka_unit_test(test_unix_length),
        cmocka_unit_test(test_tcp),  cmocka_unit_test(test_tcp_wrong),
        cmocka_unit_test(test_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
