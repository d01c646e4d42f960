/* Requests through the whole server, against a model, in every reply encoding, and with bounds so
 * tight that every way of doing a request is taken: inline, on the engine, and slice by slice when
 * the pool gives nothing. */
#include "tests/unit/check.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIZE  (40u << 20)
#define BATCH 24
#define NOISE 1000003u /* odd: where data comes from tells its place in the request */

typedef struct {
    const char *name;
    CacheMode cache;
    uint64_t requests, bytes; /* bounds; 0: the default */
} Setting;

static const Setting settings[] = {
    {"plain", CACHE_WRITEBACK, 0, 0},
    {"direct", CACHE_DIRECT, 0, 0},
    {"one request at a time", CACHE_DIRECT, 1, 0},
    {"a pool for few", CACHE_DIRECT, 4, 1 << 20},
    {"no pool", CACHE_DIRECT, 4, 1},
    {"no pool, cached", CACHE_WRITEBACK, 4, 1},
};

static NbdWorld *new_world(const Setting *setting)
{
    Limits limits;
    limits_init(&limits);
    if (setting->requests)
        limits.client_requests = setting->requests;
    if (setting->bytes)
        limits.client_bytes = limits.total_bytes = setting->bytes;
    NbdWorldOptions options = {
        .size = SIZE, .bitmap = "b0", .cache = setting->cache, .limits = &limits};
    return nbd_world_new(&options);
}

static bool has_direct_io(void)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "nbd-direct-XXXXXX", NULL);
    int plain = g_mkstemp(path);
    int direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    unlink(path);
    close(plain);
    if (direct >= 0)
        close(direct);
    return direct >= 0;
}

/* --- a model of the disk --- */

typedef struct {
    int fd;
    NbdMode mode;
    GRand *random;
    uint8_t *model, *got, *noise;
    PeerChunk chunk;
} Play;

/* Not byte by byte: under a sanitizer that is what the test would do most of the time. */
static void scribble(Play *play, uint64_t offset, uint32_t length)
{
    uint32_t from = (uint32_t)g_rand_int_range(play->random, 0, NOISE);
    for (uint32_t n, done = 0; done < length; done += n, from = 0) {
        n = MIN(NOISE - from, length - done);
        memcpy(play->model + offset + done, play->noise + from, n);
    }
}

static void pick_range(Play *play, uint32_t most, uint64_t *ret_offset, uint32_t *ret_length)
{
    static const uint32_t lengths[] = {1,     511,   512,    4096,   4097,    16384,
                                       65536, 65537, 262144, 270336, 1 << 20, (1 << 20) + 513};
    uint32_t length = lengths[g_rand_int_range(play->random, 0, G_N_ELEMENTS(lengths))];
    *ret_length = MIN(length, most);
    *ret_offset = (uint64_t)g_rand_int_range(play->random, 0, (gint32)(SIZE - *ret_length + 1));
    if (g_rand_boolean(play->random))
        *ret_offset &= ~(uint64_t)4095;
}

/* All chunks of one READ; they must cover it exactly. Others' replies do not come between: the test
 * asks one at a time here. */
static void check_read(Play *play, uint16_t flags, uint64_t offset, uint32_t length)
{
    uint64_t covered = 0, cookie = offset ^ length;
    unsigned contents = 0;
    memset(play->got, 0xee, length);
    peer_request(play->fd, play->mode, NBD_CMD_READ, flags, cookie, offset, length);
    for (bool done = false; !done;) {
        const PeerChunk *chunk = &play->chunk;
        peer_next_chunk(play->fd, play->mode, length, &play->chunk);
        done = chunk->flags & NBD_REPLY_FLAG_DONE;
        assert_int_equal(chunk->cookie, cookie);
        assert_int_equal(chunk->error, 0);
        if (play->mode == NBD_MODE_SIMPLE) {
            memcpy(play->got, chunk->data, length);
            covered = length;
        } else if (chunk->type == NBD_REPLY_TYPE_OFFSET_DATA) {
            uint64_t at = nbd_get64(chunk->data) - offset;
            assert_true(chunk->length > 8 && at + chunk->length - 8 <= length);
            memcpy(play->got + at, chunk->data + 8, chunk->length - 8);
            covered += chunk->length - 8;
            contents++;
        } else if (chunk->type == NBD_REPLY_TYPE_OFFSET_HOLE) {
            uint64_t at = nbd_get64(chunk->data) - offset, n = nbd_get32(chunk->data + 8);
            assert_true(n > 0 && at + n <= length);
            memset(play->got + at, 0, n);
            covered += n;
            contents++;
        } else {
            assert_int_equal(chunk->type, NBD_REPLY_TYPE_NONE);
            assert_true(done);
        }
    }
    assert_int_equal(covered, length);
    if (flags & NBD_CMD_FLAG_DF)
        assert_int_equal(contents, 1);
    if (memcmp(play->got, play->model + offset, length) != 0)
        assert_memory_equal(play->got, play->model + offset, length); /* says where */
}

/* Some writes, zeroes and trims at once, no two of the same bytes; then their answers in any
 * order. */
static void change_batch(Play *play)
{
    uint64_t offsets[BATCH];
    uint32_t lengths[BATCH];
    unsigned count = 0;
    for (unsigned i = 0; i < BATCH; i++) {
        uint64_t offset;
        uint32_t length;
        bool free = true;
        pick_range(play, 1 << 20, &offset, &length);
        for (unsigned k = 0; k < count; k++)
            free &= offset + length <= offsets[k] || offsets[k] + lengths[k] <= offset;
        if (!free)
            continue;
        uint16_t fua = g_rand_int_range(play->random, 0, 4) == 0 ? NBD_CMD_FLAG_FUA : 0;
        uint16_t hole = g_rand_boolean(play->random) ? NBD_CMD_FLAG_NO_HOLE : 0;
        switch (g_rand_int_range(play->random, 0, 6)) {
        case 0:
            peer_request(play->fd, play->mode, NBD_CMD_WRITE_ZEROES, fua | hole, count, offset,
                         length);
            memset(play->model + offset, 0, length);
            break;
        default:
            scribble(play, offset, length);
            peer_request(play->fd, play->mode, NBD_CMD_WRITE, fua, count, offset, length);
            peer_write(play->fd, play->model + offset, length);
            break;
        }
        offsets[count] = offset;
        lengths[count++] = length;
    }
    peer_request(play->fd, play->mode, NBD_CMD_CACHE, 0, count, 0, SIZE);
    peer_request(play->fd, play->mode, NBD_CMD_FLUSH, 0, count + 1, 0, 0);
    bool seen[BATCH + 2] = {false};
    for (unsigned i = 0; i < count + 2; i++) {
        PeerChunk chunk;
        peer_chunk(play->fd, play->mode, 0, &chunk);
        assert_int_equal(chunk.error, 0);
        assert_true(chunk.cookie < count + 2 && !seen[chunk.cookie]);
        seen[chunk.cookie] = true;
        g_free(chunk.data);
    }
}

/* Threads meet each other in the first as in the last. */
#ifdef __SANITIZE_THREAD__
#define ROUNDS 1
#else
#define ROUNDS 4
#endif

/* Its buffers are used again. */
static void play_through(Play *play, NbdWorld *world, NbdMode mode, uint32_t seed)
{
    play->fd = nbd_world_connect(world);
    play->mode = mode;
    play->random = g_rand_new_with_seed(seed);
    memset(play->model, 0, SIZE);
    peer_go(play->fd, mode, NULL);
    peer_request(play->fd, mode, NBD_CMD_WRITE_ZEROES, 0, 1, 0, SIZE);
    assert_int_equal(peer_result(play->fd, mode, 1), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        change_batch(play);
        for (unsigned i = 0; i < 30; i++) {
            uint64_t offset;
            uint32_t length;
            pick_range(play, SIZE, &offset, &length);
            bool df = mode != NBD_MODE_SIMPLE && g_rand_boolean(play->random);
            check_read(play, df ? NBD_CMD_FLAG_DF : 0, offset, length);
        }
    }
    /* The largest there are. */
    check_read(play, 0, 4096, NBD_MAX_PAYLOAD);
    if (mode != NBD_MODE_SIMPLE)
        check_read(play, NBD_CMD_FLAG_DF, 777, NBD_MAX_PAYLOAD);
    peer_request(play->fd, mode, NBD_CMD_WRITE, 0, 5, 4097, NBD_MAX_PAYLOAD);
    scribble(play, 4097, NBD_MAX_PAYLOAD);
    peer_write(play->fd, play->model + 4097, NBD_MAX_PAYLOAD);
    assert_int_equal(peer_result(play->fd, mode, 5), 0);
    check_read(play, 0, 0, NBD_MAX_PAYLOAD);
    check_read(play, 0, SIZE - NBD_MAX_PAYLOAD, NBD_MAX_PAYLOAD);
    peer_request(play->fd, mode, NBD_CMD_DISC, 0, 0, 0, 0);
    peer_expect_end(play->fd);
    close(play->fd);
    g_rand_free(play->random);
}

static void test_model(void **state)
{
    static const NbdMode modes[] = {NBD_MODE_SIMPLE, NBD_MODE_STRUCTURED, NBD_MODE_EXTENDED};
    Play play = {.model = g_malloc(SIZE), .got = g_malloc(SIZE), .noise = g_malloc(NOISE)};
    for (uint32_t i = 0, value = 1; i < NOISE; i++, value = value * 1103515245 + 12345)
        play.noise[i] = (uint8_t)(value >> 16);
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (settings[i].cache == CACHE_DIRECT && !has_direct_io()) {
            print_message("no direct I/O here: '%s' is left out\n", settings[i].name);
            continue;
        }
        NbdWorld *world = new_world(&settings[i]);
        for (size_t k = 0; k < G_N_ELEMENTS(modes); k++)
            play_through(&play, world, modes[k], (uint32_t)(i * 10 + k));
        nbd_world_free(world);
    }
    g_free(play.model);
    g_free(play.got);
    g_free(play.noise);
    g_free(play.chunk.data);
}

/* --- block status --- */

static void test_status(void **state)
{
    static const char *const names[] = {"base:allocation", "qemu:dirty-bitmap:b0", NULL};
    NbdWorld *world = new_world(&settings[0]);
    int fd = nbd_world_connect(world);
    PeerChunk chunk;
    peer_go(fd, NBD_MODE_EXTENDED, names);
    peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_WRITE, 0, 1, 1 << 20, 65536);
    g_autofree uint8_t *data = g_malloc0(65536);
    peer_write(fd, data, 65536);
    assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 1), 0);

    /* All of the disk, of all contexts: clean, dirty, clean. */
    peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_BLOCK_STATUS, 0, 2, 0, SIZE);
    for (uint32_t id = 0; id < 2; id++) {
        peer_chunk(fd, NBD_MODE_EXTENDED, 0, &chunk);
        assert_int_equal(chunk.type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
        assert_int_equal(chunk.flags, id == 1 ? NBD_REPLY_FLAG_DONE : 0);
        assert_int_equal(nbd_get32(chunk.data), id);
        assert_int_equal(nbd_get32(chunk.data + 4), 3);
        assert_int_equal(nbd_get64(chunk.data + 8), 1 << 20);
        assert_int_equal(nbd_get64(chunk.data + 16), id == 0 ? 3 : 0);
        assert_int_equal(nbd_get64(chunk.data + 24), 65536);
        assert_int_equal(nbd_get64(chunk.data + 32), id == 0 ? 0 : 1);
        assert_int_equal(nbd_get64(chunk.data + 40), SIZE - (1 << 20) - 65536);
        g_free(chunk.data);
    }
    /* One context, one extent, cut where the request ends. */
    uint8_t filter[12];
    nbd_put64(filter, 1000);
    nbd_put32(filter + 8, 1);
    peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_BLOCK_STATUS,
                 NBD_CMD_FLAG_PAYLOAD_LEN | NBD_CMD_FLAG_REQ_ONE, 3, (1 << 20) + 5, 12);
    peer_write(fd, filter, 12);
    peer_chunk(fd, NBD_MODE_EXTENDED, 0, &chunk);
    assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
    assert_int_equal(nbd_get32(chunk.data), 1);
    assert_int_equal(nbd_get32(chunk.data + 4), 1);
    assert_int_equal(nbd_get64(chunk.data + 8), 1000);
    assert_int_equal(nbd_get64(chunk.data + 16), 1);
    g_free(chunk.data);
    close(fd);
    nbd_world_free(world);
}

/* Payloads of BLOCK_STATUS that are no filter: read away, EINVAL, and the next request is heard. */
static void test_status_payloads(void **state)
{
    static const char *const names[] = {"base:allocation", "qemu:dirty-bitmap:b0", NULL};
    static const struct {
        const char *bytes;
        uint64_t length;
    } wrong[] = {
        {"x", 1},
        {"\0\0\0\0\0\0\x02\0", 8},                          /* no id */
        {"\0\0\0\0\0\0\x02\0\0\0", 10},                     /* half an id */
        {"\0\0\0\0\0\0\x02\0\0\0\0\x02", 12},               /* an unknown one */
        {"\0\0\0\0\0\0\x02\0\0\0\0\x01\0\0\0\x01", 16},     /* one twice */
        {"\0\0\0\0\0\0\0\0\0\0\0\x01", 12},                 /* no length */
        {"\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x01", 12}, /* beyond the end */
    };
    NbdWorld *world = new_world(&settings[0]);
    int fd = nbd_world_connect(world);
    peer_go(fd, NBD_MODE_EXTENDED, names);
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, i, 512,
                     wrong[i].length);
        peer_write(fd, wrong[i].bytes, wrong[i].length);
        assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, i), NBD_EINVAL);
    }
    g_autofree char *large = g_malloc0(1 << 20);
    peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 7, 0,
                 1 << 20);
    peer_write(fd, large, 1 << 20);
    assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 7), NBD_EINVAL);
    close(fd);
    nbd_world_free(world);
}

/* --- the end --- */

/* A refused write is read away, a hostile one ends the connection. */
static void test_refused_payload(void **state)
{
    NbdWorld *world = new_world(&settings[0]);
    int fd = nbd_world_connect(world);
    g_autofree char *data = g_malloc0(NBD_MAX_PAYLOAD + 1);
    peer_go(fd, NBD_MODE_STRUCTURED, NULL);
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_WRITE, 0, 1, SIZE - 10, 100000);
    peer_write(fd, data, 100000);
    assert_int_equal(peer_result(fd, NBD_MODE_STRUCTURED, 1), NBD_ENOSPC);
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_WRITE, 0, 2, 0, NBD_MAX_PAYLOAD + 1);
    peer_write(fd, data, NBD_MAX_PAYLOAD + 1);
    assert_int_equal(peer_result(fd, NBD_MODE_STRUCTURED, 2), NBD_EINVAL);
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_WRITE, 0, 3, 0, UINT32_MAX);
    peer_expect_end(fd);
    close(fd);

    fd = nbd_world_connect(world);
    peer_go(fd, NBD_MODE_EXTENDED, NULL);
    peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_TRIM, NBD_CMD_FLAG_PAYLOAD_LEN, 1, 0, 5);
    peer_write(fd, "extra", 5);
    assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 1), NBD_EINVAL);
    peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_READ, NBD_CMD_FLAG_PAYLOAD_LEN, 1, 0,
                 (uint64_t)NBD_MAX_PAYLOAD + 1);
    peer_expect_end(fd);
    close(fd);
    nbd_world_free(world);
}

/* Extended headers, then these options; enters the transmission. */
static int connect_with(NbdWorld *world, const char *const *queries, bool list,
                        const char *requests, size_t requests_length)
{
    uint8_t payload[256];
    PeerReply reply;
    int fd = nbd_world_connect(world);
    peer_greet(fd, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    peer_option(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
    peer_expect(fd, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK);
    const uint32_t options[] = {NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT, NBD_OPT_GO};
    for (size_t i = list ? 0 : 1; i < G_N_ELEMENTS(options); i++) {
        size_t length = peer_meta_payload(payload, "e", queries);
        if (options[i] == NBD_OPT_GO) {
            length = peer_info_payload(payload, "e") - 2;
            memcpy(payload + length, requests, requests_length);
            length += requests_length;
        }
        peer_option(fd, options[i], payload, length);
        do
            peer_reply(fd, options[i], &reply);
        while (reply.type != NBD_REP_ACK && !(reply.type & NBD_REP_ERROR));
        assert_int_equal(reply.type, NBD_REP_ACK);
    }
    return fd;
}

/* A write without its flag is taken from those who negotiate as QEMU does, and from nobody else. */
static void test_bare_writes(void **state)
{
    static const char *const one[] = {"base:allocation", NULL};
    static const char *const two[] = {"base:allocation", "qemu:dirty-bitmap:b0", NULL};
    static const struct {
        const char *const *queries;
        bool list;
        const char *requests;
        size_t length;
        bool taken;
    } rows[] = {
        {one, false, "\0\x01\0\x03", 4, true},        {one, true, "\0\x01\0\x03", 4, false},
        {two, false, "\0\x01\0\x03", 4, false},       {one, false, "\0\0", 2, false},
        {one, false, "\0\x01\0\x01", 4, false},       {one, false, "\0\x02\0\x03\0\x03", 6, false},
        {one, false, "\0\x02\0\x03\0\x01", 6, false},
    };
    NbdWorld *world = new_world(&settings[0]);
    static const uint8_t data[4096] = {1, 2, 3};
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        int fd =
            connect_with(world, rows[i].queries, rows[i].list, rows[i].requests, rows[i].length);
        uint8_t header[32] = {0x21, 0xe4, 0x1c, 0x71, 0, 0, 0, NBD_CMD_WRITE};
        nbd_put64(header + 24, sizeof data);
        peer_write(fd, header, sizeof header);
        if (rows[i].taken) {
            peer_write(fd, data, sizeof data);
            assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 0), 0);
            peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_FLUSH, 0, 1, 0, 0);
            assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 1), 0);
        } else {
            assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 0), NBD_EINVAL);
            peer_expect_end(fd);
        }
        close(fd);
    }
    nbd_world_free(world);
}

static void test_wrong_magic(void **state)
{
    NbdWorld *world = new_world(&settings[0]);
    int fd = nbd_world_connect(world);
    peer_go(fd, NBD_MODE_EXTENDED, NULL);
    peer_request(fd, NBD_MODE_SIMPLE, NBD_CMD_FLUSH, 0, 1, 0, 0);
    peer_write(fd, "1234", 4); /* a compact header is shorter */
    peer_expect_end(fd);
    close(fd);
    nbd_world_free(world);
}

/* Drained: what was received is answered, then the connection ends. */
static void test_drain(void **state)
{
    NbdWorld *world = new_world(&settings[0]);
    int fd = nbd_world_connect(world), idle = nbd_world_connect(world);
    peer_go(fd, NBD_MODE_STRUCTURED, NULL);
    peer_go(idle, NBD_MODE_SIMPLE, NULL);
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_FLUSH, 0, 1, 0, 0);
    assert_int_equal(peer_result(fd, NBD_MODE_STRUCTURED, 1), 0);
    /* Half a write: it is not waited for. */
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_WRITE, 0, 2, 0, 4096);
    registry_stop_clients(world->registry, NULL, CLIENT_STOP_DRAIN);
    peer_expect_end(fd);
    peer_expect_end(idle);
    close(fd);
    close(idle);
    assert_true(registry_wait_clients(world->registry, NULL, G_MAXINT64));
    nbd_world_free(world);
}

/* A client that never reads is ended hard; others are not held up by it meanwhile. */
static void test_slow_reader(void **state)
{
    Setting tight = {.cache = CACHE_WRITEBACK, .requests = 8, .bytes = 4 << 20};
    NbdWorld *world = new_world(&tight);
    int slow = nbd_world_connect(world), other = nbd_world_connect(world);
    PeerChunk chunk;
    peer_go(slow, NBD_MODE_SIMPLE, NULL);
    peer_go(other, NBD_MODE_SIMPLE, NULL);
    for (unsigned i = 0; i < 100; i++)
        peer_request(slow, NBD_MODE_SIMPLE, NBD_CMD_READ, 0, i, 0, 1 << 20);
    for (unsigned i = 0; i < 50; i++) {
        peer_request(other, NBD_MODE_SIMPLE, NBD_CMD_READ, 0, i, 0, 1 << 20);
        peer_chunk(other, NBD_MODE_SIMPLE, 1 << 20, &chunk);
        assert_int_equal(chunk.error, 0);
        g_free(chunk.data);
    }
    peer_request(other, NBD_MODE_SIMPLE, NBD_CMD_DISC, 0, 0, 0, 0);
    peer_expect_end(other);
    /* It is being answered by now: of who has not been heard nothing would have to be drained. */
    uint8_t header[16];
    peer_read(slow, header, sizeof header);
    registry_stop_clients(world->registry, NULL, CLIENT_STOP_DRAIN);
    assert_false(registry_wait_clients(world->registry, NULL, g_get_monotonic_time() + 100000));
    registry_stop_clients(world->registry, NULL, CLIENT_STOP_HARD);
    assert_true(registry_wait_clients(world->registry, NULL, G_MAXINT64));
    close(slow);
    close(other);
    nbd_world_free(world);
}

static void wait_until_held(NbdWorld *world, bool held)
{
    for (unsigned i = 0; (pool_held(nbd_server_pool(world->server)) > 0) != held; i++) {
        assert_true(i < 3000);
        g_usleep(10000);
    }
}

/* An idle client holds nothing of the pool. One that is in the middle of a request does. */
static void test_idle_gives_back(void **state)
{
    NbdWorld *world = new_world(&settings[0]);
    int fd = nbd_world_connect(world);
    uint8_t request[28];
    PeerChunk chunk;
    peer_go(fd, NBD_MODE_SIMPLE, NULL);
    nbd_put32(request, NBD_REQUEST_MAGIC);
    nbd_put32(request + 4, NBD_CMD_READ);
    nbd_put64(request + 8, 1);
    nbd_put64(request + 16, 0);
    nbd_put32(request + 24, 4096);
    for (unsigned i = 0; i < 2; i++) {
        peer_write(fd, request, 27);
        wait_until_held(world, true);
        peer_write(fd, request + 27, 1);
        peer_chunk(fd, NBD_MODE_SIMPLE, 4096, &chunk);
        assert_int_equal(chunk.error, 0);
        g_free(chunk.data);
        wait_until_held(world, false);
    }
    close(fd);
    nbd_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),           cmocka_unit_test(test_status),
        cmocka_unit_test(test_status_payloads), cmocka_unit_test(test_refused_payload),
        cmocka_unit_test(test_bare_writes),     cmocka_unit_test(test_wrong_magic),
        cmocka_unit_test(test_drain),           cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_idle_gives_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
