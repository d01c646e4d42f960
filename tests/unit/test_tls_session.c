/* TLS as a connection uses it: many records go out, and come in, with one system call. Calls of
 * send and recv in this program are counted (GnuTLS's own, on the client's side, are not ours). */
#include "daemon/core/tls_material.h"
#include "daemon/nbd/stream.h"
#include "tests/unit/check.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECORD 16384u /* plain bytes in one */
#define KEY    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static unsigned sends, receives;

ssize_t __real_send(int fd, const void *buffer, size_t length, int flags);
ssize_t __real_recv(int fd, void *buffer, size_t length, int flags);
ssize_t __wrap_send(int fd, const void *buffer, size_t length, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t length, int flags);

/* Those that had to wait for the other side do not count: they carried nothing. */
ssize_t __wrap_send(int fd, const void *buffer, size_t length, int flags)
{
    ssize_t sent = __real_send(fd, buffer, length, flags);
    sends += sent > 0;
    return sent;
}

ssize_t __wrap_recv(int fd, void *buffer, size_t length, int flags)
{
    ssize_t got = __real_recv(fd, buffer, length, flags);
    receives += got > 0;
    return got;
}

/* The client: connects, reads `wanted` bytes, sends `given`, says goodbye. */
typedef struct {
    int fd;
    size_t wanted, given;
    size_t piece; /* bytes in a record at most */
    pthread_t thread;
    bool good;
    gnutls_cipher_algorithm_t cipher;
} Peer;

static bool transfer(gnutls_session_t session, bool in, size_t length, size_t piece)
{
    g_autofree char *block = g_malloc0(RECORD);
    while (length > 0) {
        size_t part = MIN(length, piece);
        ssize_t n = in ? gnutls_record_recv(session, block, part)
                       : gnutls_record_send(session, block, part);
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
            continue;
        if (n <= 0)
            return false;
        length -= (size_t)n;
    }
    return true;
}

static void *peer_main(void *argument)
{
    Peer *peer = argument;
    gnutls_session_t session;
    gnutls_psk_client_credentials_t credentials;
    gnutls_datum_t key = {(unsigned char *)KEY, strlen(KEY)};
    gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    gnutls_psk_allocate_client_credentials(&credentials);
    gnutls_psk_set_client_credentials(credentials, "bob", &key, GNUTLS_PSK_KEY_HEX);
    /* The other order than any server's, so that the server's is seen to decide. */
    gnutls_priority_set_direct(session,
                               "NORMAL:-KX-ALL:+ECDHE-PSK:-CIPHER-ALL:+AES-256-GCM:"
                               "+CHACHA20-POLY1305:+AES-128-GCM",
                               NULL);
    gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials);
    gnutls_transport_set_int(session, peer->fd);
    int result;
    do
        result = gnutls_handshake(session);
    while (result < 0 && !gnutls_error_is_fatal(result));
    peer->good = result == 0;
    peer->cipher = peer->good ? gnutls_cipher_get(session) : 0;
    peer->good = peer->good && transfer(session, true, peer->wanted, RECORD) &&
                 transfer(session, false, peer->given, peer->piece);
    gnutls_bye(session, GNUTLS_SHUT_WR);
    gnutls_deinit(session);
    gnutls_psk_free_client_credentials(credentials);
    return NULL;
}

typedef struct {
    BufferPool *pool;
    PoolAccount account;
    Stream stream;
    Peer peer;
    int wake_fd;
} World;

static TlsMaterial *load_keys(void)
{
    g_auto(Scratch) file = scratch_file(SCRATCH_MEMORY, 0);
    TlsSource source = {.kind = TLS_PSK, .keys = file.path};
    GError *error = NULL;
    assert_true(g_file_set_contents(file.path, "bob:" KEY "\n", -1, NULL));
    TlsMaterial *material = tls_material_load(&source, &error);
    if (!material)
        fail_msg("%s", error->message);
    return material;
}

static void begin(World *world, size_t wanted, size_t given, size_t piece)
{
    int fds[2], size = 1 << 20;
    struct timeval patience = {.tv_sec = 30};
    g_autoptr(TlsMaterial) material = load_keys();
    *world = (World){.pool = pool_new(64 << 20, 32 << 20), .wake_fd = eventfd(0, EFD_CLOEXEC)};
    pool_account_init(&world->account, world->pool);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    for (int i = 0; i < 2; i++) {
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    world->stream = (Stream){.fd = fds[0], .account = &world->account};
    world->peer = (Peer){.fd = fds[1], .wanted = wanted, .given = given, .piece = piece};
    assert_int_equal(pthread_create(&world->peer.thread, NULL, peer_main, &world->peer), 0);
    StreamPatience handshake = {.deadline = g_get_monotonic_time() + 30 * G_USEC_PER_SEC,
                                .wake_fd = world->wake_fd};
    g_autofree char *why = NULL;
    assert_int_equal(stream_start_tls(&world->stream, material, &handshake, &why), 0);
    sends = receives = 0;
}

static void join(World *world)
{
    if (world->peer.thread)
        pthread_join(world->peer.thread, NULL);
    world->peer.thread = 0;
}

static void finish(World *world)
{
    join(world);
    assert_true(world->peer.good);
    stream_end_tls(&world->stream);
    close(world->stream.fd);
    close(world->peer.fd);
    close(world->wake_fd);
    assert_int_equal(pool_held(world->pool), 0);
    pool_free(world->pool);
}

static void test_a_large_answer_goes_out_in_few_calls(void **state)
{
    enum { LENGTH = 8 << 20 };
    World world;
    begin(&world, LENGTH, 0, 0);
    g_autofree char *data = g_malloc0(LENGTH);
    struct iovec part = {data, LENGTH};
    assert_int_equal(stream_send(&world.stream, &part, 1, false), 0);
    finish(&world);
    /* A record each would be 512; the socket takes some two hundred kilobytes at a time. */
    assert_in_range(sends, 1, LENGTH / RECORD / 4);
}

static void test_small_answers_go_out_together(void **state)
{
    enum { ANSWERS = 64, LENGTH = 32 };
    World world;
    begin(&world, (size_t)ANSWERS * LENGTH, 0, 0);
    char data[LENGTH] = {0};
    for (int i = 0; i < ANSWERS; i++) {
        struct iovec part = {data, LENGTH};
        assert_int_equal(stream_send(&world.stream, &part, 1, i + 1 < ANSWERS), 0);
        assert_int_equal(sends, i + 1 < ANSWERS ? 0 : 1);
    }
    finish(&world);
}

static void test_what_comes_in_is_taken_together(void **state)
{
    enum { LENGTH = 8 << 20 };
    World world;
    begin(&world, 0, LENGTH, RECORD);
    g_autofree char *data = g_malloc(LENGTH);
    for (size_t done = 0; done < LENGTH;) {
        struct iovec part = {data, RECORD};
        ssize_t got = stream_receive(&world.stream, &part, 1, true);
        if (got == -EAGAIN)
            continue;
        assert_true(got > 0);
        done += (size_t)got;
    }
    finish(&world);
    /* One for the head of each record and one for its rest would be 1024. */
    assert_in_range(receives, 1, LENGTH / RECORD);
}

/* A client puts each request into a record of its own. */
static void test_small_requests_are_taken_together(void **state)
{
    enum { REQUESTS = 64, LENGTH = 32 };
    World world;
    begin(&world, 0, (size_t)REQUESTS * LENGTH, LENGTH);
    join(&world); /* all of them have come */
    char data[REQUESTS * LENGTH];
    struct iovec parts[] = {{data, 5}, {data + 5, sizeof data - 5}};
    assert_int_equal(stream_receive(&world.stream, parts, 2, false), sizeof data);
    assert_int_equal(receives, 1);
    finish(&world);
}

/* The processor's own choice, over the order that the client would like. */
static void test_the_fastest_cipher_is_used(void **state)
{
    World world;
    begin(&world, 0, 0, 0);
    finish(&world);
    bool aes = strstr(tls_default_priority(TLS_PSK), "-CIPHER-ALL:+AES-128-GCM") != NULL;
    assert_int_equal(world.peer.cipher,
                     aes ? GNUTLS_CIPHER_AES_128_GCM : GNUTLS_CIPHER_CHACHA20_POLY1305);
    g_autofree char *info = NULL;
    if (g_file_get_contents("/proc/cpuinfo", &info, NULL, NULL))
        assert_int_equal(aes, g_regex_match_simple("^(flags|Features)\\s*:.*\\baes\\b", info,
                                                   G_REGEX_MULTILINE, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_large_answer_goes_out_in_few_calls),
        cmocka_unit_test(test_small_answers_go_out_together),
        cmocka_unit_test(test_what_comes_in_is_taken_together),
        cmocka_unit_test(test_small_requests_are_taken_together),
        cmocka_unit_test(test_the_fastest_cipher_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
