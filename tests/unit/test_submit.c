/* Transfers that finish on the engine: which of them the backends take, and that they come out as
 * the others do. */
#include "storage/backend.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 300000

typedef struct {
    BackendIo io;
    _Atomic bool done;
    int result;
} TestIo;

static void finished(BackendIo *io, int result)
{
    TestIo *test = (TestIo *)io;

    test->result = result;
    test->done = true;
}

typedef struct {
    Engine *engine;
    EngineLane lane;
    Scratch scratch;
    Backend *backend;
    char *buffer; /* SIZE, page-aligned */
} Fixture;

static int tear_down(void **state)
{
    Fixture *fixture = *state;

    engine_lane_clear(&fixture->lane);
    engine_free(fixture->engine);
    backend_close(fixture->backend);
    scratch_clear(&fixture->scratch);
    free(fixture->buffer);
    g_free(fixture);
    return 0;
}

static int set_up(void **state)
{
    CacheMode cache = (CacheMode)(uintptr_t)*state;
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->engine = engine_new(4, ENGINE_AUTO);
    engine_lane_init(&fixture->lane, fixture->engine);
    fixture->scratch = scratch_file(SCRATCH_DISK, SIZE);
    fixture->backend = backend_open(fixture->scratch.path, false, cache, NULL);
    *state = fixture;
    return posix_memalign((void **)&fixture->buffer, 4096, SIZE);
}

static Fixture *require(void **state)
{
    Fixture *fixture = *state;

    if (!engine_lane_can_io(&fixture->lane) || fixture->backend == NULL) {
        skip();
    }
    return fixture;
}

/* 1: not taken; else the result. */
static int submit(Fixture *fixture, bool write, void *buffer, size_t length, uint64_t offset,
                  unsigned flags)
{
    TestIo test = {.io.done = finished};
    Backend *backend = fixture->backend;
    bool taken;

    taken = backend->ops->submit(backend, &fixture->lane, &test.io, write, buffer, length, offset,
                                 flags);
    while (taken && !test.done) {
        /* A thread of the engine may finish it. */
        engine_lane_poll(&fixture->lane, NULL, 0, 1000);
    }
    return taken ? test.result : 1;
}

static void put(Fixture *fixture, uint64_t offset, size_t length, char byte)
{
    memset(fixture->buffer, byte, length);
    assert_int_equal(
        fixture->backend->ops->pwrite(fixture->backend, fixture->buffer, length, offset, 0), 0);
}

static void buffered_reads_are_taken(void **state)
{
    Fixture *fixture = require(state);

    put(fixture, 1000, 200000, 'r');
    assert_int_equal(fdatasync(fixture->backend->fd), 0);
    assert_int_equal(posix_fadvise(fixture->backend->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    memset(fixture->buffer, 0, SIZE);
    assert_int_equal(submit(fixture, false, fixture->buffer + 1, 200001, 1000, 0), 0);
    assert_int_equal(fixture->buffer[1], 'r');
    assert_int_equal(fixture->buffer[200000], 'r');
    assert_int_equal(fixture->buffer[200001], 0);
    assert_int_equal(submit(fixture, true, fixture->buffer, 4096, 0, 0), 1);
    assert_int_equal(submit(fixture, false, fixture->buffer, 0, 0, 0), 1);
    assert_int_equal(truncate(fixture->scratch.path, 5000), 0);
    assert_int_equal(submit(fixture, false, fixture->buffer, 8192, 0, 0), -EIO);
    assert_int_equal(submit(fixture, false, fixture->buffer, 4096, 8192, 0), -EIO);
}

static void aligned_direct_transfers_are_taken(void **state)
{
    Fixture *fixture = require(state);
    uint32_t block = fixture->backend->minimum_block;

    memset(fixture->buffer, 'w', 65536);
    assert_int_equal(submit(fixture, true, fixture->buffer, 65536, 4096, 0), 0);
    memset(fixture->buffer, 0, 65536);
    assert_int_equal(submit(fixture, false, fixture->buffer, 65536, 4096, 0), 0);
    assert_int_equal(fixture->buffer[0], 'w');
    assert_int_equal(fixture->buffer[65535], 'w');

    assert_int_equal(submit(fixture, false, fixture->buffer, block, 1, 0), 1);
    assert_int_equal(submit(fixture, true, fixture->buffer, block + 1, 0, 0), 1);
    assert_int_equal(submit(fixture, true, fixture->buffer, block, 0, IO_FUA), 1);
    assert_int_equal(truncate(fixture->scratch.path, 5000), 0);
    assert_int_equal(submit(fixture, false, fixture->buffer, 8192, 0, 0), -EIO);
    assert_int_equal(submit(fixture, false, fixture->buffer, 4096, 8192, 0), -EIO);
}

static void threads_alone_take_nothing(void **state)
{
    Fixture *fixture = *state;

    engine_lane_clear(&fixture->lane);
    engine_free(fixture->engine);
    fixture->engine = engine_new(1, ENGINE_THREADS);
    engine_lane_init(&fixture->lane, fixture->engine);
    assert_int_equal(submit(fixture, false, fixture->buffer, 4096, 0, 0), 1);
}

/* Submitted writes of whole blocks beside one that reads and writes back a part of them. */
typedef struct {
    Fixture *fixture;
    _Atomic bool done;
    int errors;
} Neighbour;

static void *write_first_bytes(void *data)
{
    Neighbour *neighbour = data;
    Backend *backend = neighbour->fixture->backend;
    char small[100];

    memset(small, 'n', sizeof small);
    while (!neighbour->done) {
        neighbour->errors += backend->ops->pwrite(backend, small, sizeof small, 0, 0) != 0;
    }
    return NULL;
}

static void submitted_writes_are_not_undone(void **state)
{
    Fixture *fixture = require(state);
    Neighbour neighbour = {.fixture = fixture};
    Backend *backend = fixture->backend;
    char back[8192];
    pthread_t thread;
    int taken = 0;

    pthread_create(&thread, NULL, write_first_bytes, &neighbour);
    for (int i = 0; i < 2000 && taken < 200; i++) {
        int result;

        memset(fixture->buffer, i, 8192);
        result = submit(fixture, true, fixture->buffer, 8192, 0, 0);
        if (result == 1) {
            result = backend->ops->pwrite(backend, fixture->buffer, 8192, 0, 0);
        } else {
            taken++;
        }
        assert_int_equal(result, 0);
        assert_int_equal(backend->ops->pread(backend, back, 8192, 0, 0), 0);
        assert_memory_equal(back + 100, fixture->buffer + 100, 8192 - 100);
    }
    neighbour.done = true;
    pthread_join(thread, NULL);
    assert_int_equal(neighbour.errors, 0);
}

#define TEST(test, cache)                                                                          \
    {                                                                                              \
        .name = #test, .test_func = test, .setup_func = set_up, .teardown_func = tear_down,        \
        .initial_state = (void *)(uintptr_t)cache                                                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(buffered_reads_are_taken, CACHE_WRITEBACK),
        TEST(aligned_direct_transfers_are_taken, CACHE_DIRECT),
        TEST(threads_alone_take_nothing, CACHE_WRITEBACK),
        TEST(submitted_writes_are_not_undone, CACHE_DIRECT),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
