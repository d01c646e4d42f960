/* CACHE_DIRECT: any alignment, a last block that is not full, and writers that share a block. */
#include "storage/backend.h"
#include "storage/fd_backend.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define KIB ((uint64_t)1024)

/* NULL where the file system of temporary files has no direct I/O: the test is skipped then. */
static Backend *open_direct(const Scratch *scratch)
{
    return backend_open(scratch->path, false, CACHE_DIRECT, NULL);
}

static Backend *require_direct(const Scratch *scratch)
{
    Backend *backend = open_direct(scratch);

    if (backend == NULL) {
        skip();
    }
    return backend;
}

static void it_says_what_it_needs(void **state)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 100000);
    Backend *backend = require_direct(&scratch);

    assert_true(backend->minimum_block >= 512);
    assert_int_equal(backend->minimum_block & (backend->minimum_block - 1), 0);
    assert_true(backend->memory_align >= 1);
    assert_true(backend->preferred_block >= backend->minimum_block);
    assert_false(backend->splice_ok);
    assert_int_equal(backend->size, 100000);
    assert_true((fcntl(backend->fd, F_GETFL) & O_DIRECT) != 0);
    assert_true((fcntl(backend->fd, F_GETFL) & O_NONBLOCK) == 0);
    backend_close(backend);
}

static void nothing_is_done_inline(void **state)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 8 * KIB);
    Backend *backend = require_direct(&scratch);
    char data[512];

    assert_int_equal(backend->ops->pread(backend, data, 512, 0, IO_NOWAIT), -EAGAIN);
    assert_int_equal(backend->ops->pwrite(backend, data, 512, 0, IO_NOWAIT), -EAGAIN);
    backend_close(backend);
}

static void shrinking_is_noticed(void **state)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 64 * KIB);
    Backend *backend = require_direct(&scratch);
    _Alignas(4096) char data[8192];

    assert_int_equal(truncate(scratch.path, 5000), 0);
    assert_int_equal(backend->ops->pread(backend, data, 8192, 0, 0), -EIO);
    assert_int_equal(backend->ops->pread(backend, data, 10, 4995, 0), -EIO);
    assert_int_equal(backend->ops->pread(backend, data, 4096, 8192, 0), -EIO);
    assert_int_equal(backend->ops->pread(backend, data, 5, 4995, 0), 0);
    backend_close(backend);
}

/* Random operations against a copy in memory. The sizes are chosen so that the last block is full,
 * nearly empty, and nearly full; lengths pass the bounce buffer's size. */
static void it_agrees_with_a_model(void **state)
{
    uint64_t size = (uint64_t)(uintptr_t)*state;
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, size);
    Backend *backend = require_direct(&scratch);
    g_autofree char *model = g_malloc0(size);
    g_autofree char *data = g_malloc(size + 8192);
    GRand *random = g_rand_new_with_seed(42);
    struct stat info;

    for (int i = 0; i < 400; i++) {
        bool whole = g_rand_int_range(random, 0, 3) == 0;
        uint64_t unit = whole ? backend->minimum_block : 1;
        uint64_t offset = (uint64_t)g_rand_double_range(random, 0, (double)size) / unit * unit;
        uint64_t longest = MIN(size - offset, i % 10 == 0 ? size : 9000);
        uint64_t length = (uint64_t)g_rand_double_range(random, 0, (double)longest) / unit * unit;
        char *place = data + 4096 - (uintptr_t)data % 4096 + (whole ? 0 : i % 7);

        length = length == 0 ? MIN(unit, size - offset) : length;
        if (i % 20 == 19) {
            length = size - offset; /* the tail */
        }
        switch (g_rand_int_range(random, 0, 5)) {
        case 0:
        case 1:
            memset(place, 'a' + i % 26, length);
            memset(model + offset, 'a' + i % 26, length);
            assert_int_equal(
                backend->ops->pwrite(backend, place, length, offset, i % 3 ? 0 : IO_FUA), 0);
            break;
        case 2:
            memset(model + offset, 0, length);
            assert_int_equal(backend->ops->zero(backend, offset, length, i & 1 ? IO_MAY_HOLE : 0),
                             0);
            break;
        case 3:
            memset(model + offset, 0, length);
            assert_int_equal(fd_backend_write_zeroes((FdBackend *)backend, offset, length, 0), 0);
            break;
        case 4:
            assert_int_equal(backend->ops->pread(backend, place, length, offset, 0), 0);
            assert_memory_equal(place, model + offset, length);
            break;
        }
    }
    assert_int_equal(backend->ops->flush(backend), 0);
    assert_int_equal(backend->ops->pread(backend, data, size, 0, 0), 0);
    assert_memory_equal(data, model, size);
    /* Never longer, not even for a moment that is over now. */
    assert_int_equal(stat(scratch.path, &info), 0);
    assert_int_equal(info.st_size, size);
    g_rand_free(random);
    backend_close(backend);
}

/* Four writers, each the only one to write to its own bytes, but with neighbours in the same
 * blocks: what each wrote last is there, whatever the others read back and wrote meanwhile. */
#define WRITERS 4
#define SHARE   3000 /* bytes of each writer: every border is inside a block */

typedef struct {
    Backend *backend;
    uint64_t offset, length;
    char *last;
    int rounds;
    unsigned seed;
    int errors;
} Writer;

static void *write_own_bytes(void *data)
{
    Writer *writer = data;
    _Alignas(4096) char buffer[8192];
    GRand *random = g_rand_new_with_seed(writer->seed);

    for (int i = 0; i < writer->rounds; i++) {
        uint64_t start = (uint64_t)g_rand_int_range(random, 0, (gint32)writer->length);
        uint64_t length = (uint64_t)g_rand_int_range(random, 0, (gint32)(writer->length - start));

        length = MAX(length, 1);
        memset(buffer, (char)g_rand_int(random), length);
        writer->errors += writer->backend->ops->pwrite(writer->backend, buffer, length,
                                                       writer->offset + start, 0) != 0;
        memcpy(writer->last + start, buffer, length);
        if (i % 5 == 0) {
            char back[SHARE];

            writer->errors += writer->backend->ops->pread(writer->backend, back, writer->length,
                                                          writer->offset, 0) != 0;
            writer->errors += memcmp(back, writer->last, writer->length) != 0;
        }
    }
    g_rand_free(random);
    return NULL;
}

static void neighbours_in_a_block_do_not_lose_writes(void **state)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, WRITERS * SHARE);
    Backend *backend = require_direct(&scratch);
    Writer writers[WRITERS];
    pthread_t threads[WRITERS];
    char back[SHARE];

    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){.backend = backend,
                              .offset = i * SHARE,
                              .length = SHARE,
                              .last = g_malloc0(SHARE),
                              .rounds = 150,
                              .seed = i + 1};
        pthread_create(&threads[i], NULL, write_own_bytes, &writers[i]);
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(writers[i].errors, 0);
        assert_int_equal(backend->ops->pread(backend, back, SHARE, writers[i].offset, 0), 0);
        assert_memory_equal(back, writers[i].last, SHARE);
        g_free(writers[i].last);
    }
    backend_close(backend);
}

/* One writes whole blocks, and alone to all bytes of them but the first hundred; another writes to
 * those, and so reads and writes back the rest. */
typedef struct {
    Backend *backend;
    int rounds;
    _Atomic bool done;
    int errors;
} Pair;

static void *write_first_bytes(void *data)
{
    Pair *pair = data;
    char small[100];

    memset(small, 'b', sizeof small);
    while (!pair->done) {
        if (pair->backend->ops->pwrite(pair->backend, small, sizeof small, 0, 0) != 0) {
            pair->errors++;
        }
    }
    return NULL;
}

static void aligned_writes_are_not_undone_by_unaligned_ones(void **state)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 64 * KIB);
    Backend *backend = require_direct(&scratch);
    Pair pair = {.backend = backend};
    size_t length = 2 * MAX(backend->minimum_block, 4096u);
    pthread_t thread;
    char *block = NULL, *back = NULL;

    assert_int_equal(posix_memalign((void **)&block, 4096, length), 0);
    assert_int_equal(posix_memalign((void **)&back, 4096, length), 0);
    pthread_create(&thread, NULL, write_first_bytes, &pair);
    for (int i = 0; i < 300; i++) {
        memset(block, i, length);
        assert_int_equal(backend->ops->pwrite(backend, block, length, 0, 0), 0);
        assert_int_equal(backend->ops->pread(backend, back, length, 0, 0), 0);
        assert_memory_equal(back + 100, block + 100, length - 100);
        if (i % 3 == 0) {
            memset(block, 0, length);
            assert_int_equal(backend->ops->zero(backend, 0, length, i & 1 ? IO_MAY_HOLE : 0), 0);
            assert_int_equal(backend->ops->pread(backend, back, length, 0, 0), 0);
            assert_memory_equal(back + 100, block + 100, length - 100);
        }
    }
    pair.done = true;
    pthread_join(thread, NULL);
    assert_int_equal(pair.errors, 0);
    free(block);
    free(back);
    backend_close(backend);
}

#define MODEL(bytes)                                                                               \
    {                                                                                              \
        .name = "it_agrees_with_a_model of " #bytes, .test_func = it_agrees_with_a_model,          \
        .initial_state = (void *)(uintptr_t)(bytes)                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_what_it_needs),
        cmocka_unit_test(nothing_is_done_inline),
        cmocka_unit_test(shrinking_is_noticed),
        MODEL(1048576),
        MODEL(1048577),
        MODEL(700000),
        MODEL(819199),
        MODEL(100),
        cmocka_unit_test(neighbours_in_a_block_do_not_lose_writes),
        cmocka_unit_test(aligned_writes_are_not_undone_by_unaligned_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
