/* Reads whose calls do not go as they should: splice and pread are those below (see
 * meson.build). */
#include "tests/unit/check.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SIZE   (8u << 20)
#define LENGTH (3u << 20) /* more than a pipe holds */

/* Calls that load from the file until one answers EAGAIN; 0: none does. */
static _Atomic int loads_left;

ssize_t __real_splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length,
                      unsigned flags);
ssize_t __wrap_splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length,
                      unsigned flags);
ssize_t __wrap_splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length,
                      unsigned flags)
{
    if (in_offset != NULL && loads_left > 0 && --loads_left == 0) {
        errno = EAGAIN;
        return -1;
    }
    return __real_splice(in, in_offset, out, out_offset, length, flags);
}

/* A pread that may wait answers EAGAIN all the same. */
static _Atomic bool pread_is_sick;

ssize_t __real_pread64(int fd, void *buffer, size_t length, off64_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off64_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off64_t offset)
{
    if (pread_is_sick) {
        errno = EAGAIN;
        return -1;
    }
    return __real_pread64(fd, buffer, length, offset);
}

static void fill_disk(const NbdWorld *world, const uint8_t *data)
{
    g_autofree char *path = g_build_filename(world->folder, "disk", NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, SIZE, 0), SIZE);
    close(fd);
}

/* A user who has many pipes gets small ones, and then nothing is spliced. */
static void require_large_pipes(void)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    int size = fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
    close(fds[0]);
    close(fds[1]);
    if (size < 1 << 20)
        skip();
}

/* The data of one READ, in whatever chunks it comes; then nothing more is due. */
static void check_read(int fd, NbdMode mode, uint16_t flags, const uint8_t *expected)
{
    uint64_t covered = 0;

    peer_request(fd, mode, NBD_CMD_READ, flags, 1, 0, LENGTH);
    for (bool done = false; !done;) {
        PeerChunk chunk;

        peer_chunk(fd, mode, LENGTH, &chunk);
        done = chunk.flags & NBD_REPLY_FLAG_DONE;
        assert_int_equal(chunk.error, 0);
        if (mode == NBD_MODE_SIMPLE) {
            assert_memory_equal(chunk.data, expected, LENGTH);
            covered = LENGTH;
        } else if (chunk.type == NBD_REPLY_TYPE_OFFSET_DATA) {
            assert_int_equal(nbd_get64(chunk.data), covered);
            assert_memory_equal(chunk.data + 8, expected + covered, chunk.length - 8);
            covered += chunk.length - 8;
        }
        g_free(chunk.data);
    }
    assert_int_equal(covered, LENGTH);
    peer_request(fd, mode, NBD_CMD_FLUSH, 0, 2, 0, 0);
    assert_int_equal(peer_result(fd, mode, 2), 0);
}

static void what_cannot_be_spliced_is_read(void **state)
{
    static const NbdMode modes[] = {NBD_MODE_SIMPLE, NBD_MODE_STRUCTURED, NBD_MODE_EXTENDED};
    NbdWorldOptions options = {.size = SIZE};
    require_large_pipes();
    NbdWorld *world = nbd_world_new(&options);
    g_autofree uint8_t *data = g_malloc(SIZE);

    for (unsigned i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i / 4096 + i);
    fill_disk(world, data);
    for (unsigned m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (int calls = 1; calls < 40; calls++) {
            int fd = nbd_world_connect(world);
            bool spliced;

            peer_go(fd, modes[m], NULL);
            loads_left = calls;
            check_read(fd, modes[m], 0, data);
            spliced = loads_left == 0;
            if (modes[m] != NBD_MODE_SIMPLE) {
                loads_left = calls;
                check_read(fd, modes[m], NBD_CMD_FLAG_DF, data);
            }
            close(fd);
            if (!spliced) {
                assert_true(calls > 1);
                break; /* fewer calls than that */
            }
        }
    }
    loads_left = 0;
    nbd_world_free(world);
}

/* All chunks up to the one that says that it is the last: one error, and no other answer. */
static void an_error_is_answered_once(void **state)
{
    NbdWorldOptions options = {.size = SIZE};
    require_large_pipes();
    NbdWorld *world = nbd_world_new(&options);
    int fd = nbd_world_connect(world);
    g_autofree uint8_t *data = g_malloc0(SIZE);
    PeerChunk chunk;
    unsigned errors = 0;

    memset(data, 'e', SIZE);
    fill_disk(world, data);
    peer_go(fd, NBD_MODE_STRUCTURED, NULL);
    loads_left = 3;
    pread_is_sick = true;
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_READ, 0, 1, 0, LENGTH);
    do {
        peer_chunk(fd, NBD_MODE_STRUCTURED, LENGTH, &chunk);
        assert_int_equal(chunk.cookie, 1);
        errors += chunk.error != 0;
        g_free(chunk.data);
    } while (!(chunk.flags & NBD_REPLY_FLAG_DONE));
    assert_int_equal(errors, 1);
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_FLUSH, 0, 2, 0, 0);
    assert_int_equal(peer_result(fd, NBD_MODE_STRUCTURED, 2), 0);
    pread_is_sick = false;
    close(fd);
    nbd_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_spliced_is_read),
        cmocka_unit_test(an_error_is_answered_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
