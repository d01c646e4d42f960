/* Reads whose calls do not go as they should: splice, pipe2, pread, preadv2 and sendmsg are those
 * below (see meson.build). */
#include "tests/unit/check.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
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

/* There is one pipe and never another, as where descriptors have run out. */
static _Atomic int pipes_left = INT_MAX;

int __real_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags)
{
    if (pipes_left-- <= 0) {
        errno = EMFILE;
        return -1;
    }
    return __real_pipe2(ends, flags);
}

/* A pread that may wait answers EAGAIN all the same. */
static _Atomic bool pread_is_sick;
/* What is read from here on is not cached, and the disk takes its time. */
static _Atomic uint64_t uncached = UINT64_MAX;
static _Atomic bool disk_hangs;

ssize_t __real_pread64(int fd, void *buffer, size_t length, off64_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off64_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off64_t offset)
{
    if (pread_is_sick) {
        errno = EAGAIN;
        return -1;
    }
    while (disk_hangs && (uint64_t)offset >= uncached)
        g_usleep(1000);
    return __real_pread64(fd, buffer, length, offset);
}

ssize_t __real_preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    if ((uint64_t)offset >= uncached) {
        errno = EAGAIN;
        return -1;
    }
    return __real_preadv64v2(fd, parts, count, offset, flags);
}

/* Of the last one. */
static _Atomic int sent_flags;

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    sent_flags = flags;
    return __real_sendmsg(fd, message, flags);
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

/* The client goes in the middle of a large answer, and the pipe with what was in it has to go, too.
 * Its connection ends: the world would wait for it for ever. */
static void who_goes_in_the_middle_is_let_go(void **state)
{
    NbdWorldOptions options = {.size = SIZE};
    NbdWorld *world = nbd_world_new(&options);
    int fd = nbd_world_connect(world);
    g_autofree uint8_t *data = g_malloc0(SIZE);
    uint8_t some[4096];

    memset(data, 'e', SIZE);
    fill_disk(world, data);
    peer_go(fd, NBD_MODE_SIMPLE, NULL);
    pipes_left = 1;
    peer_request(fd, NBD_MODE_SIMPLE, NBD_CMD_READ, 0, 1, 0, SIZE);
    peer_read(fd, some, sizeof some);
    assert_int_equal(pipes_left, 0);
    close(fd);
    nbd_world_free(world);
    pipes_left = INT_MAX;
}

/* Answers that fill the buffer are sent before the next read begins, which may be one that the disk
 * has to be asked for: they do not wait for it, as they might where more is said to follow. */
static void answers_do_not_wait_for_the_disk(void **state)
{
    enum { PIECE = 16384, FIT = 16, EACH = 28 }; /* so many pieces and their heads fit */
    NbdWorldOptions options = {.size = SIZE};
    NbdWorld *world = nbd_world_new(&options);
    int fd = nbd_world_connect(world);
    uint8_t requests[(FIT + 1) * EACH] = {0};
    PeerChunk chunk = {0};

    peer_go(fd, NBD_MODE_STRUCTURED, NULL);
    for (unsigned i = 0; i <= FIT; i++) {
        uint8_t *request = requests + (size_t)i * EACH;

        nbd_put32(request, NBD_REQUEST_MAGIC);
        nbd_put64(request + 8, i);
        nbd_put64(request + 16, (uint64_t)i * PIECE);
        nbd_put32(request + 24, PIECE);
    }
    uncached = FIT * PIECE;
    disk_hangs = true;
    peer_write(fd, requests, sizeof requests);
    for (unsigned i = 0; i < FIT; i++) {
        peer_next_chunk(fd, NBD_MODE_STRUCTURED, PIECE, &chunk);
        assert_int_equal(chunk.cookie, i);
    }
    assert_int_equal(sent_flags & MSG_MORE, 0);
    disk_hangs = false;
    peer_next_chunk(fd, NBD_MODE_STRUCTURED, PIECE, &chunk);
    assert_int_equal(chunk.cookie, FIT);
    g_free(chunk.data);
    uncached = UINT64_MAX;
    close(fd);
    nbd_world_free(world);
}

/* A read that begins with a hole, whose answer needs no disk, and goes on with what is not cached
 * does not keep the next one from being answered. */
static void a_hole_ahead_of_what_is_not_cached(void **state)
{
    enum { DATA = 1 << 20, HOLE = 20 << 10, EACH = 4096 };
    NbdWorldOptions options = {.size = SIZE};
    NbdWorld *world = nbd_world_new(&options);
    int fd = nbd_world_connect(world);
    g_autofree char *path = g_build_filename(world->folder, "disk", NULL);
    g_autofree uint8_t *data = g_malloc0(DATA);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    uint64_t covered = 0;
    PeerChunk chunk = {0};

    assert_int_equal(pwrite(file, data, DATA, DATA), DATA);
    close(file);
    peer_go(fd, NBD_MODE_STRUCTURED, NULL);
    uncached = DATA;
    disk_hangs = true;
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_READ, 0, 1, DATA - HOLE, 2 * HOLE);
    peer_request(fd, NBD_MODE_STRUCTURED, NBD_CMD_READ, 0, 2, 0, EACH);
    peer_next_chunk(fd, NBD_MODE_STRUCTURED, 0, &chunk);
    assert_int_equal(chunk.cookie, 2);
    disk_hangs = false;
    while (covered < 2 * HOLE) {
        peer_next_chunk(fd, NBD_MODE_STRUCTURED, 0, &chunk);
        assert_int_equal(chunk.cookie, 1);
        covered +=
            chunk.type == NBD_REPLY_TYPE_OFFSET_HOLE ? nbd_get32(chunk.data + 8) : chunk.length - 8;
    }
    g_free(chunk.data);
    uncached = UINT64_MAX;
    close(fd);
    nbd_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_spliced_is_read),
        cmocka_unit_test(an_error_is_answered_once),
        cmocka_unit_test(who_goes_in_the_middle_is_let_go),
        cmocka_unit_test(answers_do_not_wait_for_the_disk),
        cmocka_unit_test(a_hole_ahead_of_what_is_not_cached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
