/* What a client is told of a dirty bitmap, byte by byte, against the list of its extents. */
#include "daemon/nbd/answer.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK   512
#define BLOCKS  ((uint64_t)400000)
#define SIZE    (BLOCKS * BLOCK)
#define MANY    ((size_t)131072)
#define RECEIVE (4u << 20)

typedef struct {
    World *world;
    Bitmap *bitmap;
    BufferPool *pool;
    PoolAccount account;
    MetaContext context;
    MetaContext *contexts[2];
    NbdSession session;
} Scene;

static Scene *scene_new(NbdMode mode, size_t contexts)
{
    Scene *scene = g_new0(Scene, 1);
    scene->world = world_new(SIZE);
    world_add(scene->world, "a", BLOCK);
    scene->bitmap = disk_find_bitmap(scene->world->disk, "a");
    scene->pool = pool_new(64 * MiB, 64 * MiB);
    pool_account_init(&scene->account, scene->pool);
    scene->context = (MetaContext){.kind = META_DIRTY_BITMAP, .bitmap = scene->bitmap};
    scene->contexts[0] = scene->contexts[1] = &scene->context;
    scene->session.mode = mode;
    scene->session.minimum_block = 1;
    scene->session.contexts = (MetaSelection){.items = scene->contexts, .count = contexts};
    return scene;
}

static void scene_free(Scene *scene)
{
    bitmap_unref(scene->bitmap);
    world_free(scene->world);
    assert_int_equal(pool_held(scene->pool), 0);
    pool_free(scene->pool);
    g_free(scene);
}

/* Every second block from first on. */
static void stripe(Scene *scene, uint64_t first, uint64_t end)
{
    for (uint64_t block = first; block < end; block += 2)
        world_write(scene->world, block * BLOCK, BLOCK);
}

static Request *new_request(Scene *scene, uint64_t offset, uint64_t length, uint16_t flags)
{
    Request *request = g_new0(Request, 1);
    request->wire = (NbdRequest){
        .type = NBD_CMD_BLOCK_STATUS, .flags = flags, .offset = offset, .length = length};
    request->kind = OP_STATUS;
    request->session = &scene->session;
    request->account = &scene->account;
    request->status_length = length;
    request->block = pool_take(&scene->account, scene->session.contexts.count * STATUS_LEAST, true,
                               &request->block_size);
    return request;
}

typedef struct {
    int fd;
    uint8_t *bytes;
    size_t length;
} Received;

static void *receive_all(void *data)
{
    Received *received = data;
    ssize_t n;
    while ((n = recv(received->fd, received->bytes + received->length, RECEIVE - received->length,
                     0)) > 0)
        received->length += (size_t)n;
    return NULL;
}

/* What leaves for a request that is done, which it frees. */
static Received answer(Scene *scene, Request *request)
{
    int fds[2];
    pthread_t thread;
    Output output;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    Received received = {.fd = fds[1], .bytes = g_malloc(RECEIVE)};
    Stream stream = {.fd = fds[0]};
    assert_int_equal(pthread_create(&thread, NULL, receive_all, &received), 0);
    output_init(&output, &stream, &scene->account);
    answer_request(&output, request);
    assert_true(output_flush(&output, false));
    output_clear(&output);
    request_free(request);
    close(fds[0]);
    pthread_join(thread, NULL);
    close(fds[1]);
    return received;
}

/* A chunk at *at, which is moved behind it: how many extents, each as the list has it, as far as
 * they go. */
static size_t check_chunk(const Scene *scene, const Received *received, size_t *at,
                          const ExtentList *expected)
{
    bool extended = scene->session.mode == NBD_MODE_EXTENDED;
    const uint8_t *chunk = received->bytes + *at;
    size_t head = extended ? 40 : 24, extent = nbd_extent_size(scene->session.mode);
    assert_true(received->length - *at >= head);
    uint64_t length = extended ? nbd_get64(chunk + 24) : nbd_get32(chunk + 16);
    size_t count = (length - (extended ? 8 : 4)) / extent;
    if (extended)
        assert_int_equal(nbd_get32(chunk + 36), count);
    assert_true(count > 0 && count <= expected->count);
    assert_true(received->length - *at >= head + count * extent);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *one = chunk + head + i * extent;
        assert_int_equal(extended ? nbd_get64(one) : nbd_get32(one), expected->items[i].length);
        assert_int_equal(extended ? nbd_get64(one + 8) : nbd_get32(one + 4),
                         expected->items[i].flags);
    }
    *at += head + count * extent;
    return count;
}

/* Asks, and answers how many extents there were in the last chunk. */
static size_t ask(Scene *scene, uint64_t offset, uint64_t length, uint16_t flags, size_t most)
{
    ExtentList expected;
    size_t at = 0, count = 0;
    extent_list_init(&expected, offset, most);
    assert_int_equal(bitmap_extents(scene->bitmap, offset, length, &expected), 0);
    Request *request = new_request(scene, offset, length, flags);
    request_run(request);
    assert_int_equal(request->result, 0);
    Received received = answer(scene, request);
    for (size_t i = 0; i < scene->session.contexts.count; i++)
        count = check_chunk(scene, &received, &at, &expected);
    assert_int_equal(at, received.length);
    extent_list_clear(&expected);
    g_free(received.bytes);
    return count;
}

static void test_same_as_the_list(void **state)
{
    static const NbdMode modes[] = {NBD_MODE_STRUCTURED, NBD_MODE_EXTENDED};
    for (unsigned m = 0; m < 2; m++) {
        Scene *scene = scene_new(modes[m], 1);
        GRand *rand = g_rand_new_with_seed(m);
        assert_int_equal(ask(scene, 0, SIZE, 0, MANY), 1);
        stripe(scene, 5000, 12000);
        world_write(scene->world, SIZE - BLOCK, BLOCK);
        for (unsigned i = 0; i < 100; i++) {
            uint64_t offset = (uint64_t)g_rand_int_range(rand, 0, 13000) * BLOCK +
                              (uint64_t)g_rand_int_range(rand, 0, 2) * 100;
            uint64_t length = 1 + (uint64_t)g_rand_int(rand) % (i % 2 ? 100000 : SIZE - offset);
            ask(scene, offset, length, 0, MANY);
            assert_int_equal(ask(scene, offset, length, NBD_CMD_FLAG_REQ_ONE, 1), 1);
        }
        g_rand_free(rand);
        scene_free(scene);
    }
}

/* Around what is looked for before there is memory for more, and the most that there may be. */
static void test_as_many_as_there_may_be(void **state)
{
    for (size_t contexts = 1; contexts <= 2; contexts++) {
        Scene *scene = scene_new(NBD_MODE_EXTENDED, contexts);
        stripe(scene, 1, MANY + 3000);
        for (uint64_t blocks = 1020; blocks < 1030; blocks++)
            assert_int_equal(ask(scene, 0, blocks * BLOCK, 0, MANY), blocks);
        size_t most = MANY / contexts;
        for (uint64_t blocks = most - 2; blocks < most + 3; blocks++)
            assert_int_equal(ask(scene, 0, blocks * BLOCK, 0, most), MIN(blocks, most));
        assert_int_equal(ask(scene, 0, SIZE, 0, most), most);
        scene_free(scene);
    }
}

/* Without memory the answer is short, and right as far as it goes. */
static void test_when_the_pool_is_used_up(void **state)
{
    Scene *scene = scene_new(NBD_MODE_EXTENDED, 2);
    PoolAccount full;
    BufferPool *pool = pool_new(4096, 4096);
    stripe(scene, 1, 20000);
    pool_account_init(&full, pool);
    PoolAccount own = scene->account;
    scene->account = full;
    for (uint64_t blocks = 1; blocks < 5000; blocks = blocks * 3 / 2 + 1) {
        size_t count = ask(scene, 100, blocks * BLOCK, 0, MANY);
        assert_true(count >= MIN(blocks, 20));
    }
    scene->account = own;
    assert_int_equal(pool_held(pool), 0);
    pool_free(pool);
    scene_free(scene);
}

/* Memory for the most that there may be is refused, that for what the first look found is not. */
static void test_when_the_pool_gives_a_little(void **state)
{
    Scene *scene = scene_new(NBD_MODE_EXTENDED, 1);
    PoolAccount small, own = scene->account;
    BufferPool *pool = pool_new(65536, 65536);
    stripe(scene, 1, 20000);
    pool_account_init(&small, pool);
    scene->account = small;
    assert_int_equal(ask(scene, 0, 5000 * BLOCK, 0, MANY), 1024);
    scene->account = own;
    assert_int_equal(pool_held(pool), 0);
    pool_free(pool);
    scene_free(scene);
}

/* A removed bitmap says nothing at all. */
static void test_removed(void **state)
{
    Scene *scene = scene_new(NBD_MODE_EXTENDED, 1);
    world_do(scene->world, disk_change_remove, "a");
    Request *request = new_request(scene, 0, SIZE, 0);
    request_run(request);
    assert_int_equal(request->result, -EIO);
    assert_null(request->chunks);
    request_free(request);
    scene_free(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_the_list),
        cmocka_unit_test(test_as_many_as_there_may_be),
        cmocka_unit_test(test_when_the_pool_is_used_up),
        cmocka_unit_test(test_when_the_pool_gives_a_little),
        cmocka_unit_test(test_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
