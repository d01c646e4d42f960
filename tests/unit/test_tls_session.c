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

static unsigned sends, receives, attempts;

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
    attempts++;
    return got;
}

/* The client: connects, reads `wanted` bytes, sends `given`, says goodbye. Or: takes rounds, each
 * of which changes its keys, sends a line with that in one segment, and reads the answer. Or: puts
 * what it would send into `held` and leaves the rest to the test. */
typedef struct {
    int fd;
    size_t wanted, given;
    size_t piece;             /* of what is given, in a record; 0: as much as fits */
    unsigned rounds, changes; /* changes: of keys ahead of a line; 0: one */
    bool asks;                /* for new keys of the server's */
    size_t answer;            /* to each line; 0: as long as that */
    GByteArray *held;
    pthread_t thread;
    bool good, joined;
    unsigned answered; /* with new keys */
    GByteArray *segment;
    gnutls_cipher_algorithm_t cipher;
} Peer;

#define LINE 32

static ssize_t gather(gnutls_transport_ptr_t pointer, const void *data, size_t length)
{
    Peer *peer = pointer;
    if (peer->segment) {
        g_byte_array_append(peer->segment, data, (guint)length);
        return (ssize_t)length;
    }
    return __real_send(peer->fd, data, length, MSG_NOSIGNAL);
}

static ssize_t pull(gnutls_transport_ptr_t pointer, void *data, size_t length)
{
    return __real_recv(((Peer *)pointer)->fd, data, length, 0);
}

static int note_keys(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
                     const gnutls_datum_t *message)
{
    ((Peer *)gnutls_session_get_ptr(session))->answered += incoming != 0;
    return 0;
}

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

/* Into the segment. */
static bool say_line(Peer *peer, gnutls_session_t session)
{
    char line[LINE] = {0};
    for (unsigned i = 0; i < MAX(peer->changes, 1); i++)
        if (gnutls_session_key_update(session, peer->asks ? GNUTLS_KU_PEER : 0) != 0)
            return false;
    return gnutls_record_send(session, line, LINE) == LINE;
}

static bool take_round(Peer *peer, gnutls_session_t session)
{
    peer->segment = g_byte_array_new();
    bool good = say_line(peer, session);
    g_autoptr(GByteArray) segment = g_steal_pointer(&peer->segment);
    return good &&
           __real_send(peer->fd, segment->data, segment->len, MSG_NOSIGNAL) ==
               (ssize_t)segment->len &&
           transfer(session, true, peer->answer > 0 ? peer->answer : LINE, RECORD);
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
    gnutls_transport_set_ptr(session, peer);
    gnutls_transport_set_push_function(session, gather);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_session_set_ptr(session, peer);
    gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_KEY_UPDATE, GNUTLS_HOOK_POST,
                                       note_keys);
    int result;
    do
        result = gnutls_handshake(session);
    while (result < 0 && !gnutls_error_is_fatal(result));
    peer->good = result == 0;
    peer->cipher = peer->good ? gnutls_cipher_get(session) : 0;
    peer->good = peer->good && transfer(session, true, peer->wanted, RECORD) &&
                 transfer(session, false, peer->given, peer->piece ? peer->piece : RECORD);
    for (unsigned i = 0; i < peer->rounds && peer->good; i++)
        peer->good = take_round(peer, session);
    if (peer->held && peer->good) {
        peer->segment = peer->held;
        peer->good = say_line(peer, session);
    } else {
        gnutls_bye(session, GNUTLS_SHUT_WR);
    }
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

static void begin_with(World *world, const Peer *peer)
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
    world->peer = *peer;
    world->peer.fd = fds[1];
    assert_int_equal(pthread_create(&world->peer.thread, NULL, peer_main, &world->peer), 0);
    StreamPatience handshake = {.deadline = g_get_monotonic_time() + 30 * G_USEC_PER_SEC,
                                .wake_fd = world->wake_fd};
    g_autofree char *why = NULL;
    assert_int_equal(stream_start_tls(&world->stream, material, &handshake, &why), 0);
    sends = receives = 0;
}

static void begin(World *world, size_t wanted, size_t given)
{
    Peer peer = {.wanted = wanted, .given = given};
    begin_with(world, &peer);
}

static void join(World *world)
{
    if (!world->peer.joined)
        pthread_join(world->peer.thread, NULL);
    world->peer.joined = true;
    assert_true(world->peer.good);
}

static void finish(World *world)
{
    join(world);
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
    begin(&world, LENGTH, 0);
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
    begin(&world, (size_t)ANSWERS * LENGTH, 0);
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
    begin(&world, 0, LENGTH);
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
    Peer peer = {.given = (size_t)REQUESTS * LENGTH, .piece = LENGTH};
    World world;
    begin_with(&world, &peer);
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
    begin(&world, 0, 0);
    finish(&world);
    bool aes = strstr(tls_default_priority(TLS_PSK), "-CIPHER-ALL:+AES-128-GCM") != NULL;
    assert_int_equal(world.peer.cipher,
                     aes ? GNUTLS_CIPHER_AES_128_GCM : GNUTLS_CIPHER_CHACHA20_POLY1305);
    g_autofree char *info = NULL;
    if (g_file_get_contents("/proc/cpuinfo", &info, NULL, NULL))
        assert_int_equal(aes, g_regex_match_simple("^(flags|Features)\\s*:.*\\baes\\b", info,
                                                   G_REGEX_MULTILINE, 0));
}

/* --- new keys --- */

/* The three ways in which the server reads, and answers. Each fails rather than hang. */
#define PATIENCE 30 /* seconds */

static void haggle(World *world)
{
    char line[LINE];
    StreamPatience patience = {.deadline = g_get_monotonic_time() + PATIENCE * G_USEC_PER_SEC,
                               .wake_fd = world->wake_fd};
    assert_int_equal(stream_read_all(&world->stream, line, 1, &patience), 0);
    assert_int_equal(stream_read_all(&world->stream, line, LINE - 1, &patience), 0);
    assert_int_equal(stream_write_all(&world->stream, line, LINE, &patience), 0);
}

static void serve(World *world)
{
    char line[LINE];
    struct iovec part = {line, LINE};
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(world->stream.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(stream_receive(&world->stream, &part, 1, true), LINE);
    assert_int_equal(stream_send(&world->stream, &part, 1, false), 0);
}

static void serve_while_busy(World *world)
{
    char line[LINE];
    struct iovec part = {line, LINE};
    struct pollfd fd = {.fd = world->stream.fd, .events = POLLIN};
    ssize_t got = -EAGAIN;
    while (got == -EAGAIN) {
        assert_true(stream_may_have_more(&world->stream) || poll(&fd, 1, PATIENCE * 1000) == 1);
        got = stream_receive(&world->stream, &part, 1, false);
    }
    assert_int_equal(got, LINE);
    assert_int_equal(stream_send(&world->stream, &part, 1, false), 0);
}

static void take_rounds(bool asks)
{
    enum { ROUNDS = 2 }; /* GnuTLS takes eight changes a second */
    void (*const ways[])(World *) = {haggle, serve, serve_while_busy};
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        World world;
        Peer peer = {.rounds = ROUNDS, .asks = asks};
        begin_with(&world, &peer);
        for (int round = 0; round < ROUNDS; round++)
            ways[i](&world);
        finish(&world);
        assert_int_equal(world.peer.answered, asks ? ROUNDS : 0);
    }
}

static void test_new_keys_and_a_request_in_one_segment(void **state)
{
    take_rounds(false);
}

static void test_the_client_asks_for_new_keys(void **state)
{
    take_rounds(true);
}

/* New keys ahead of an answer that is larger than the buffer and the socket. */
static void test_new_keys_for_a_large_answer(void **state)
{
    enum { LENGTH = 8 << 20 };
    World world;
    Peer peer = {.rounds = 1, .asks = true, .answer = LENGTH};
    char line[LINE];
    begin_with(&world, &peer);
    g_autofree char *data = g_malloc0(LENGTH);
    struct iovec asked = {line, LINE}, answer = {data, LENGTH};
    assert_int_equal(stream_receive(&world.stream, &asked, 1, true), LINE);
    assert_int_equal(stream_send(&world.stream, &answer, 1, false), 0);
    finish(&world);
    assert_int_equal(world.peer.answered, 1);
}

/* What a client would send after the handshake: new keys, and a line. */
static GByteArray *begin_held(World *world, unsigned changes)
{
    GByteArray *bytes = g_byte_array_new();
    Peer peer = {.held = bytes, .changes = changes};
    begin_with(world, &peer);
    join(world);
    return bytes;
}

static ssize_t arrives(World *world, const GByteArray *bytes, size_t from, size_t until)
{
    char line[LINE];
    struct iovec part = {line, LINE};
    ssize_t length = (ssize_t)(until - from);
    assert_int_equal(__real_send(world->peer.fd, bytes->data + from, until - from, 0), length);
    attempts = 0;
    ssize_t got = stream_receive(&world->stream, &part, 1, false);
    assert_in_range(attempts, 1, 4);
    assert_true(got != -EAGAIN || !stream_may_have_more(&world->stream));
    return got;
}

/* Wherever the segments end: it waits for the socket, and does not ask again and again. */
static void test_new_keys_in_pieces(void **state)
{
    World world;
    for (size_t cut = 1;; cut++) {
        g_autoptr(GByteArray) bytes = begin_held(&world, 1);
        bool last = cut == bytes->len - 1;
        assert_int_equal(arrives(&world, bytes, 0, cut), -EAGAIN);
        assert_int_equal(arrives(&world, bytes, cut, bytes->len), LINE);
        finish(&world);
        if (last)
            break;
    }
}

/* A client that sends nothing else does not keep the thread. */
static void test_new_keys_again_and_again(void **state)
{
    World world;
    g_autoptr(GByteArray) few = begin_held(&world, 5);
    assert_int_equal(arrives(&world, few, 0, few->len), LINE);
    finish(&world);
    g_autoptr(GByteArray) many = begin_held(&world, 500);
    assert_int_equal(arrives(&world, many, 0, many->len), -EPROTO);
    finish(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_large_answer_goes_out_in_few_calls),
        cmocka_unit_test(test_small_answers_go_out_together),
        cmocka_unit_test(test_what_comes_in_is_taken_together),
        cmocka_unit_test(test_small_requests_are_taken_together),
        cmocka_unit_test(test_the_fastest_cipher_is_used),
        cmocka_unit_test(test_new_keys_and_a_request_in_one_segment),
        cmocka_unit_test(test_the_client_asks_for_new_keys),
        cmocka_unit_test(test_new_keys_for_a_large_answer),
        cmocka_unit_test(test_new_keys_in_pieces),
        cmocka_unit_test(test_new_keys_again_and_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
