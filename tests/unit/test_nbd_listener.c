/* Listening sockets: what is in the way, what is left behind, and what one connects to. */
#include "daemon/nbd/address.h"
#include "storage/error.h"
#include "tests/unit/check.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static NbdWorld *world;
static GMainLoop *loop;
static GThread *loop_thread;

static gpointer run_loop(gpointer data)
{
    g_main_loop_run(loop);
    return NULL;
}

static int set_up(void **state)
{
    NbdWorldOptions options = {.size = 1 << 20};
    world = nbd_world_new(&options);
    loop = g_main_loop_new(NULL, FALSE);
    loop_thread = g_thread_new("loop", run_loop, NULL);
    return 0;
}

static int tear_down(void **state)
{
    g_main_loop_quit(loop);
    g_thread_join(loop_thread);
    g_main_loop_unref(loop);
    nbd_world_free(world);
    return 0;
}

static NbdListener *start(const char *address)
{
    NbdListenerOptions options = {.name = "test", .address = address};
    GError *error = NULL;
    NbdListener *listener = nbd_listener_start(world->server, &options, &error);
    if (listener == NULL)
        fail_msg("%s: %s", address, error->message);
    return listener;
}

static void check_refused(const char *address, int code, const char *words)
{
    NbdListenerOptions options = {.name = "test", .address = address};
    g_autoptr(GError) error = NULL;
    if (nbd_listener_start(world->server, &options, &error) != NULL)
        fail_msg("%s was taken", address);
    if (!g_error_matches(error, STORAGE_ERROR, code) || !strstr(error->message, words))
        fail_msg("%s: %s", address, error->message);
}

static char *path_of(const char *name)
{
    return g_build_filename(world->folder, name, NULL);
}

/* A connected socket. */
static int dial(const char *address)
{
    Address parsed;
    GError *error = NULL;
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } name = {0};
    socklen_t length;
    assert_true(address_parse(address, &parsed, &error));
    if (parsed.kind == ADDRESS_UNIX) {
        name.un.sun_family = AF_UNIX;
        g_strlcpy(name.un.sun_path, parsed.path, sizeof name.un.sun_path);
        length = sizeof name.un;
    } else if (strchr(parsed.host, ':')) {
        name.in6.sin6_family = AF_INET6;
        name.in6.sin6_port = htons(parsed.port);
        assert_int_equal(inet_pton(AF_INET6, parsed.host, &name.in6.sin6_addr), 1);
        length = sizeof name.in6;
    } else {
        name.in.sin_family = AF_INET;
        name.in.sin_port = htons(parsed.port);
        assert_int_equal(inet_pton(AF_INET, parsed.host, &name.in.sin_addr), 1);
        length = sizeof name.in;
    }
    int fd = socket(name.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, &name.any, length) != 0) {
        close(fd);
        fd = -1;
    }
    address_clear(&parsed);
    return fd;
}

static void check_serves(const char *address)
{
    int fd = dial(address);
    assert_true(fd >= 0);
    peer_go(fd, NBD_MODE_SIMPLE, NULL);
    peer_request(fd, NBD_MODE_SIMPLE, NBD_CMD_FLUSH, 0, 1, 0, 0);
    assert_int_equal(peer_result(fd, NBD_MODE_SIMPLE, 1), 0);
    close(fd);
}

static void test_unix(void **state)
{
    g_autofree char *path = path_of("s"), *address = g_strconcat("unix:", path, NULL);
    NbdListener *listener = start(address);
    assert_string_equal(nbd_listener_address(listener), address);
    check_serves(address);
    nbd_listener_stop(listener);
    assert_int_equal(access(path, F_OK), -1);
}

/* A file that nobody listens on any more is replaced. */
static void test_stale(void **state)
{
    g_autofree char *path = path_of("stale"), *address = g_strconcat("unix:", path, NULL);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    g_strlcpy(name.sun_path, path, sizeof name.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    close(fd);
    NbdListener *listener = start(address);
    check_serves(address);
    nbd_listener_stop(listener);
}

static void test_in_use(void **state)
{
    g_autofree char *path = path_of("live"), *address = g_strconcat("unix:", path, NULL);
    NbdListener *listener = start(address);
    check_refused(address, STORAGE_ERROR_EXISTS, "somebody listens");
    check_serves(address);
    nbd_listener_stop(listener);
}

/* What is no socket is left alone; a missing folder is said to be missing. */
static void test_in_the_way(void **state)
{
    g_autofree char *path = path_of("file"), *address = g_strconcat("unix:", path, NULL);
    g_autofree char *nowhere = g_strconcat("unix:", world->folder, "/none/s", NULL);
    assert_true(g_file_set_contents(path, "precious", -1, NULL));
    check_refused(address, STORAGE_ERROR_EXISTS, "left alone");
    assert_int_equal(access(path, F_OK), 0);
    check_refused(nowhere, STORAGE_ERROR_NOT_FOUND, "none/s");
    check_refused("unix:", STORAGE_ERROR_INVALID, "no path");
}

/* Somebody has put another socket in our place: stopping does not remove that. */
static void test_replaced(void **state)
{
    g_autofree char *path = path_of("r"), *address = g_strconcat("unix:", path, NULL);
    NbdListener *listener = start(address);
    assert_int_equal(unlink(path), 0);
    NbdListener *other = start(address);
    nbd_listener_stop(listener);
    check_serves(address);
    nbd_listener_stop(other);
    assert_int_equal(access(path, F_OK), -1);
}

static void check_tcp(const char *address, const char *prefix)
{
    NbdListener *listener = start(address);
    const char *real = nbd_listener_address(listener);
    assert_true(g_str_has_prefix(real, prefix));
    assert_false(g_str_has_suffix(real, ":0"));
    check_serves(real);
    check_refused(real, STORAGE_ERROR_EXISTS, "somebody listens");
    g_autofree char *again = g_strdup(real);
    nbd_listener_stop(listener);
    assert_int_equal(dial(again), -1);
    /* The port is free at once. */
    listener = start(again);
    check_serves(again);
    nbd_listener_stop(listener);
}

static bool has_ipv6(void)
{
    struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool good = fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof name) == 0;
    if (fd >= 0)
        close(fd);
    return good;
}

static void test_tcp(void **state)
{
    check_tcp("tcp:127.0.0.1:0", "tcp:127.0.0.1:");
    if (has_ipv6())
        check_tcp("tcp:[::1]:0", "tcp:[::1]:");
    check_refused("tcp:192.0.2.1:0", STORAGE_ERROR_IO, "192.0.2.1");
    check_refused("tcp:no-such-host.invalid:0", STORAGE_ERROR_INVALID, "no-such-host");
}

/* Every address, of both families, on one port. */
static void test_every_address(void **state)
{
    NbdListener *listener = start("tcp:*:0");
    const char *port = strrchr(nbd_listener_address(listener), ':') + 1;
    g_autofree char *v4 = g_strconcat("tcp:127.0.0.1:", port, NULL);
    g_autofree char *v6 = g_strconcat("tcp:[::1]:", port, NULL);
    check_serves(v4);
    if (has_ipv6())
        check_serves(v6);
    nbd_listener_stop(listener);
}

/* Connected clients stay when their listener goes. */
static void test_clients_stay(void **state)
{
    NbdListener *listener = start("tcp:127.0.0.1:0");
    int fd = dial(nbd_listener_address(listener));
    peer_go(fd, NBD_MODE_SIMPLE, NULL);
    nbd_listener_stop(listener);
    peer_request(fd, NBD_MODE_SIMPLE, NBD_CMD_FLUSH, 0, 1, 0, 0);
    assert_int_equal(peer_result(fd, NBD_MODE_SIMPLE, 1), 0);
    close(fd);
}

/* No file descriptor left: the listener waits, and goes on when there is one. */
static void test_out_of_descriptors(void **state)
{
    struct rlimit before, none;
    NbdListener *listener = start("tcp:127.0.0.1:0");
    int fd = dial(nbd_listener_address(listener));
    peer_go(fd, NBD_MODE_SIMPLE, NULL);
    getrlimit(RLIMIT_NOFILE, &before);
    int waiting = socket(AF_INET, SOCK_STREAM, 0);
    /* All below the lowest free one are taken. */
    int lowest = dup(waiting);
    close(lowest);
    none = before;
    none.rlim_cur = (rlim_t)lowest;
    setrlimit(RLIMIT_NOFILE, &none);
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    const char *address = nbd_listener_address(listener);
    name.sin_port = htons((uint16_t)g_ascii_strtoull(strrchr(address, ':') + 1, NULL, 10));
    assert_int_equal(connect(waiting, (struct sockaddr *)&name, sizeof name), 0);
    g_usleep(300000);
    setrlimit(RLIMIT_NOFILE, &before);
    peer_go(waiting, NBD_MODE_SIMPLE, NULL);
    close(waiting);
    close(fd);
    nbd_listener_stop(listener);
}

/* Listeners come and go while clients connect. */
static void test_churn(void **state)
{
    for (unsigned i = 0; i < 200; i++) {
        NbdListener *listener = start("tcp:127.0.0.1:0");
        int fds[4];
        for (unsigned k = 0; k < 4; k++)
            fds[k] = dial(nbd_listener_address(listener));
        nbd_listener_stop(listener);
        for (unsigned k = 0; k < 4; k++)
            close(fds[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_stale),
        cmocka_unit_test(test_in_use),
        cmocka_unit_test(test_in_the_way),
        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_every_address),
        cmocka_unit_test(test_clients_stay),
        cmocka_unit_test(test_out_of_descriptors),
        cmocka_unit_test(test_churn),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
