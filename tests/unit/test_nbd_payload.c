/* Large payloads of which pieces are written as they come, where little of one fits into memory. */
#include "daemon/core/registry_state.h"
#include "tests/unit/check.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SIZE   (8u << 20)
#define LENGTH (1u << 20)

static uint8_t *new_data(uint32_t seed)
{
    uint8_t *data = g_malloc(LENGTH);
    for (uint32_t i = 0; i < LENGTH; i++)
        data[i] = (uint8_t)((i + seed) * 2654435761u >> 24);
    return data;
}

static void check_written(const NbdWorld *world, const uint8_t *data, uint64_t offset)
{
    g_autofree char *path = g_build_filename(world->folder, "disk", NULL);
    g_autofree uint8_t *found = g_malloc(LENGTH);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, found, LENGTH, (off_t)offset), LENGTH);
    close(fd);
    assert_memory_equal(found, data, LENGTH);
}

/* File systems may tell of blocks of a megabyte. */
static void test_blocks_larger_than_the_buffer(void **state)
{
    static const uint64_t blocks[] = {1 << 20, 512 << 10, 256 << 10, 4096};
    NbdWorldOptions options = {.size = SIZE, .cache = CACHE_WRITEBACK};
    NbdWorld *world = nbd_world_new(&options);
    DiskEntry *entry = g_hash_table_lookup(world->registry->disks, "d");
    Backend *backend = (Backend *)disk_backend(entry->disk);
    for (size_t i = 0; i < G_N_ELEMENTS(blocks); i++) {
        backend->preferred_block = blocks[i];
        for (uint64_t offset = 0; offset <= 3 << 20; offset += (1 << 20) + 4096) {
            int fd = nbd_world_connect(world);
            g_autofree uint8_t *data = new_data((uint32_t)(offset + i));
            peer_go(fd, NBD_MODE_EXTENDED, NULL);
            peer_request(fd, NBD_MODE_EXTENDED, NBD_CMD_WRITE, 0, 7, offset, LENGTH);
            peer_write(fd, data, LENGTH);
            assert_int_equal(peer_result(fd, NBD_MODE_EXTENDED, 7), 0);
            check_written(world, data, offset);
            close(fd);
        }
    }
    nbd_world_free(world);
}

/* The buffer goes back to the pool while a client pauses, and then others have the memory. */
static void test_a_pause_while_memory_becomes_short(void **state)
{
    Limits limits;
    limits_init(&limits);
    limits.client_bytes = limits.total_bytes = LENGTH;
    NbdWorldOptions options = {.size = SIZE, .cache = CACHE_WRITEBACK, .limits = &limits};
    NbdWorld *world = nbd_world_new(&options);
    int slow = nbd_world_connect(world), others[12];
    g_autofree uint8_t *data = new_data(1);
    peer_go(slow, NBD_MODE_EXTENDED, NULL);
    peer_request(slow, NBD_MODE_EXTENDED, NBD_CMD_WRITE, 0, 7, 0, LENGTH);
    peer_write(slow, data, 128 << 10);
    g_usleep(1500000);
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        others[i] = nbd_world_connect(world);
        peer_go(others[i], NBD_MODE_EXTENDED, NULL);
        /* With FUA: a payload for which there is a block is waited for in it. */
        peer_request(others[i], NBD_MODE_EXTENDED, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 8, SIZE / 2,
                     (512u << 10) >> (i / 2));
        peer_write(others[i], data, 100);
        g_usleep(10000);
    }
    peer_write(slow, data + (128 << 10), LENGTH - (128 << 10));
    assert_int_equal(peer_result(slow, NBD_MODE_EXTENDED, 7), 0);
    check_written(world, data, 0);
    close(slow);
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++)
        close(others[i]);
    nbd_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_larger_than_the_buffer),
        cmocka_unit_test(test_a_pause_while_memory_becomes_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
