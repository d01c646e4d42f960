/* Option haggling on a socket pair: what is parsed, and how it is answered when it is wrong. The
 * table of the protocol has its wire tests in tests/integration; these are the corners. */
#include "tests/unit/check.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static NbdWorld *world;

static int set_up(void **state)
{
    NbdWorldOptions options = {.size = 1 << 20, .bitmap = "b0"};
    world = nbd_world_new(&options);
    return 0;
}

static int tear_down(void **state)
{
    nbd_world_free(world);
    return 0;
}

static int connect_greeted(void)
{
    int fd = nbd_world_connect(world);
    peer_greet(fd, NBD_FLAG_C_FIXED_NEWSTYLE);
    return fd;
}

/* The connection still takes options. */
static void check_alive(int fd)
{
    peer_option(fd, NBD_OPT_ABORT, "ignored", 7);
    peer_expect(fd, NBD_OPT_ABORT, NBD_REP_ACK);
    peer_expect_end(fd);
    close(fd);
}

static void test_client_flags(void **state)
{
    int fd = nbd_world_connect(world);
    peer_greet(fd, 4);
    peer_expect_end(fd);
    close(fd);
}

static void test_wrong_magic(void **state)
{
    int fd = connect_greeted();
    peer_write(fd, "IHAVEOPX\0\0\0\x03\0\0\0\0", 16);
    peer_expect_end(fd);
    close(fd);
}

static void test_unknown_option(void **state)
{
    g_autofree char *payload = g_strnfill(100000, 'x');
    int fd = connect_greeted();
    peer_option(fd, 4, payload, 100000);
    peer_expect(fd, 4, NBD_REP_ERR_UNSUP);
    peer_option(fd, 0xffffffff, NULL, 0);
    peer_expect(fd, 0xffffffff, NBD_REP_ERR_UNSUP);
    check_alive(fd);
}

/* Announced, not sent: it must not be waited for. */
static void test_insane_length(void **state)
{
    int fd = connect_greeted();
    peer_write(fd, "IHAVEOPT\0\0\0\x63\xff\xff\xff\xff", 16);
    peer_expect_end(fd);
    close(fd);
}

static void test_bare_options(void **state)
{
    static const uint32_t bare[] = {NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY,
                                    NBD_OPT_EXTENDED_HEADERS, NBD_OPT_STARTTLS};
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_STARTTLS, NULL, 0);
    peer_expect(fd, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
    for (size_t i = 0; i < G_N_ELEMENTS(bare); i++) {
        peer_option(fd, bare[i], "x", 1);
        peer_expect(fd, bare[i], NBD_REP_ERR_INVALID);
    }
    /* Whoever sends something with STARTTLS is up to something. */
    peer_expect_end(fd);
    close(fd);
}

static void test_modes(void **state)
{
    static const struct {
        uint32_t option, reply;
    } steps[] = {
        {NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK},
        {NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID},
        {NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK},
        {NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID},
        {NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD},
    };
    int fd = connect_greeted();
    for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
        peer_option(fd, steps[i].option, NULL, 0);
        peer_expect(fd, steps[i].option, steps[i].reply);
    }
    /* Whoever has extended headers must not use EXPORT_NAME. */
    peer_option(fd, NBD_OPT_EXPORT_NAME, "e", 1);
    peer_expect_end(fd);
    close(fd);
}

static void test_list(void **state)
{
    PeerReply reply;
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_LIST, NULL, 0);
    peer_reply(fd, NBD_OPT_LIST, &reply);
    assert_int_equal(reply.type, NBD_REP_SERVER);
    assert_int_equal(reply.length, 5);
    assert_memory_equal(reply.data,
                        "\0\0\0\x01"
                        "e",
                        5);
    peer_expect(fd, NBD_OPT_LIST, NBD_REP_ACK);
    check_alive(fd);
}

/* Payloads of INFO and GO that are no such thing. */
static void test_info_malformed(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } wrong[] = {
        {"", 0},
        {"\0\0\0\x01"
         "e",
         5}, /* no number of requests */
        {"\0\0\0\x02"
         "e\0\0",
         7}, /* the name would take the number */
        {"\xff\xff\xff\xff"
         "e\0\0",
         7},
        {"\0\0\0\x01"
         "e\0\x01",
         7}, /* a request that is not there */
        {"\0\0\0\x01"
         "e\0\0\0",
         8}, /* something behind */
        {"\0\0\0\x01"
         "e\0\x01\0",
         8}, /* half a request */
        {"\0\0\0\x03"
         "e\0e\0\0",
         9}, /* NUL in the name */
    };
    int fd = connect_greeted();
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        peer_option(fd, NBD_OPT_INFO, wrong[i].bytes, wrong[i].length);
        peer_expect(fd, NBD_OPT_INFO, NBD_REP_ERR_INVALID);
        peer_option(fd, NBD_OPT_GO, wrong[i].bytes, wrong[i].length);
        peer_expect(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
    }
    check_alive(fd);
}

static void test_long_names(void **state)
{
    uint8_t payload[8192];
    g_autofree char *longest = g_strnfill(NBD_MAX_STRING, 'x');
    g_autofree char *longer = g_strnfill(NBD_MAX_STRING + 1, 'x');
    const char *const none[] = {NULL};
    PeerReply reply;
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_INFO, payload, peer_info_payload(payload, longest));
    peer_reply(fd, NBD_OPT_INFO, &reply);
    assert_int_equal(reply.type, NBD_REP_ERR_UNKNOWN);
    assert_true(reply.length < 160);
    peer_option(fd, NBD_OPT_INFO, payload, peer_info_payload(payload, longer));
    peer_expect(fd, NBD_OPT_INFO, NBD_REP_ERR_INVALID);
    peer_option(fd, NBD_OPT_LIST_META_CONTEXT, payload, peer_meta_payload(payload, longest, none));
    peer_expect(fd, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
    peer_option(fd, NBD_OPT_LIST_META_CONTEXT, payload, peer_meta_payload(payload, longer, none));
    peer_expect(fd, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID);
    peer_option(fd, NBD_OPT_EXPORT_NAME, longer, NBD_MAX_STRING + 1);
    peer_expect_end(fd);
    close(fd);
}

/* The name of an unknown export is echoed as text that is one. */
static void test_echo_is_utf8(void **state)
{
    uint8_t payload[8192];
    PeerReply reply;
    GString *name = g_string_new("\xff");
    for (int i = 0; i < 200; i++)
        g_string_append(name, "\xc3\xa9");
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_INFO, payload, peer_info_payload(payload, name->str));
    peer_reply(fd, NBD_OPT_INFO, &reply);
    assert_int_equal(reply.type, NBD_REP_ERR_UNKNOWN);
    assert_true(g_utf8_validate((char *)reply.data, reply.length, NULL));
    assert_true(g_utf8_strlen((char *)reply.data, -1) < 120);
    g_string_free(name, TRUE);
    check_alive(fd);
}

/* The contexts that queries bring, as one string. */
static char *contexts_of(int fd, uint32_t option, const char *const *queries)
{
    uint8_t payload[16384];
    PeerReply reply;
    GString *names = g_string_new("");
    peer_option(fd, option, payload, peer_meta_payload(payload, "e", queries));
    for (peer_reply(fd, option, &reply); reply.type == NBD_REP_META_CONTEXT;
         peer_reply(fd, option, &reply)) {
        uint32_t id = nbd_get32(reply.data);
        if (option == NBD_OPT_LIST_META_CONTEXT)
            assert_int_equal(id, 0);
        g_string_append_printf(names, "%s ", reply.data + 4);
    }
    g_string_append_printf(names, "%#x", reply.type);
    return g_string_free(names, FALSE);
}

#define BASE   "base:allocation "
#define DEPTH  "qemu:allocation-depth "
#define BITMAP "qemu:dirty-bitmap:b0 "

static void test_queries(void **state)
{
    static const struct {
        const char *queries[5];
        const char *list, *set;
    } rows[] = {
        {{NULL}, BASE DEPTH BITMAP "0x1", "0x1"},
        {{"base:"}, BASE "0x1", "0x1"},
        {{"qemu:"}, DEPTH BITMAP "0x1", "0x1"},
        {{"qemu:dirty-bitmap:"}, BITMAP "0x1", "0x1"},
        {{"base:allocation"}, BASE "0x1", BASE "0x1"},
        {{"qemu:dirty-bitmap:b0"}, BITMAP "0x1", BITMAP "0x1"},
        {{"qemu:dirty-bitmap:b"}, "0x1", "0x1"},
        {{"qemu:dirty-bitmap:b00"}, "0x1", "0x1"},
        {{"qemu:allocation-depth", "base:allocation", "base:allocation"},
         BASE DEPTH "0x1",
         BASE DEPTH "0x1"},
        {{"x-unknown:thing", "no colon", "", ":", "base:allocation"}, BASE "0x1", BASE "0x1"},
        {{"base", "qemu", "Base:allocation"}, "0x1", "0x1"},
    };
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    peer_expect(fd, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        const char *queries[6] = {NULL};
        memcpy(queries, rows[i].queries, sizeof rows[i].queries);
        g_autofree char *list = contexts_of(fd, NBD_OPT_LIST_META_CONTEXT, queries);
        g_autofree char *set = contexts_of(fd, NBD_OPT_SET_META_CONTEXT, queries);
        assert_string_equal(list, rows[i].list);
        assert_string_equal(set, rows[i].set);
    }
    check_alive(fd);
}

static void test_query_is_skipped_when_long(void **state)
{
    g_autofree char *longer = g_strnfill(NBD_MAX_STRING + 1, 'q');
    const char *queries[] = {longer, "base:allocation", NULL};
    int fd = connect_greeted();
    g_autofree char *list = contexts_of(fd, NBD_OPT_LIST_META_CONTEXT, queries);
    assert_string_equal(list, BASE "0x1");
    check_alive(fd);
}

static void test_meta_malformed(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } wrong[] = {
        {"", 0},
        {"\0\0\0\x01"
         "e\0\0",
         7},
        {"\0\0\0\x02"
         "e\0\0\0\0",
         9}, /* the name takes of the number */
        {"\0\0\0\x01"
         "e\0\0\0\x01",
         9}, /* a query that is not there */
        {"\0\0\0\x01"
         "e\0\0\0\x01\0\0\0\x01",
         13}, /* its text is not there */
        {"\0\0\0\x01"
         "e\0\0\0\x01\xff\xff\xff\xff"
         "base:",
         18},
        {"\0\0\0\x01"
         "e\xff\xff\xff\xff\0\0\0\0",
         13}, /* many more that are not there */
        {"\0\0\0\x01"
         "e\0\0\0\0x",
         10}, /* something behind */
    };
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    peer_expect(fd, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        peer_option(fd, NBD_OPT_LIST_META_CONTEXT, wrong[i].bytes, wrong[i].length);
        peer_expect(fd, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID);
        peer_option(fd, NBD_OPT_SET_META_CONTEXT, wrong[i].bytes, wrong[i].length);
        peer_expect(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    }
    check_alive(fd);
}

static void test_bytes_one_by_one(void **state)
{
    uint8_t bytes[64] = "IHAVEOPT\0\0\0\x06\0\0\0\x07";
    size_t length = 16 + peer_info_payload(bytes + 16, "e");
    PeerReply reply;
    int fd = connect_greeted();
    for (size_t i = 0; i < length; i++)
        peer_write(fd, bytes + i, 1);
    do
        peer_reply(fd, NBD_OPT_INFO, &reply);
    while (reply.type == NBD_REP_INFO);
    assert_int_equal(reply.type, NBD_REP_ACK);
    check_alive(fd);
}

static void test_export_name_zeroes(void **state)
{
    uint8_t answer[10 + NBD_EXPORT_NAME_ZEROES];
    uint8_t none[NBD_EXPORT_NAME_ZEROES] = {0};
    int fd = connect_greeted();
    peer_option(fd, NBD_OPT_EXPORT_NAME, "e", 1);
    peer_read(fd, answer, sizeof answer);
    assert_int_equal(nbd_get64(answer), 1 << 20);
    assert_memory_equal(answer + 10, none, sizeof none);
    peer_request(fd, NBD_MODE_SIMPLE, NBD_CMD_FLUSH, 0, 1, 0, 0);
    assert_int_equal(peer_result(fd, NBD_MODE_SIMPLE, 1), 0);
    close(fd);
}

/* A stop in the handshake: options are answered so, and a silent client is not waited for long. */
static void test_shutdown(void **state)
{
    int talker = connect_greeted(), silent = connect_greeted();
    PeerReply reply;
    /* The first one is not answered before the lock is let go of, so what follows the stop is there
     * when it is seen: only then does its short patience begin. */
    registry_lock(world->registry);
    peer_option(talker, NBD_OPT_LIST, NULL, 0);
    nbd_world_stop_locked(world);
    peer_option(talker, NBD_OPT_LIST, NULL, 0);
    peer_option(talker, NBD_OPT_ABORT, NULL, 0);
    registry_unlock(world->registry);
    do
        peer_reply(talker, NBD_OPT_LIST, &reply);
    while (reply.type == NBD_REP_SERVER);
    peer_expect(talker, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN);
    peer_expect(talker, NBD_OPT_ABORT, NBD_REP_ACK);
    peer_expect_end(talker);
    peer_expect_end(silent);
    close(talker);
    close(silent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_flags),
        cmocka_unit_test(test_wrong_magic),
        cmocka_unit_test(test_unknown_option),
        cmocka_unit_test(test_insane_length),
        cmocka_unit_test(test_bare_options),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_info_malformed),
        cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_echo_is_utf8),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_query_is_skipped_when_long),
        cmocka_unit_test(test_meta_malformed),
        cmocka_unit_test(test_bytes_one_by_one),
        cmocka_unit_test(test_export_name_zeroes),
        cmocka_unit_test(test_shutdown),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
