/* Transfers that finish later: recorded like any other, and inside the gate until they have. */
#include "storage/disk_async.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 65536

typedef struct {
    World *world;
    Engine *engine;
    EngineLane lane;
    char *buffer;
} Fixture;

typedef struct {
    DiskIo io;
    _Atomic bool done;
    int result;
} TestIo;

static void finished(DiskIo *io, int result)
{
    TestIo *test = (TestIo *)io;
    test->result = result;
    test->done = true;
}

static int set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    *state = fixture;
    fixture->world = world_new(16 * MiB);
    fixture->engine = engine_new(2, ENGINE_AUTO);
    engine_lane_init(&fixture->lane, fixture->engine);
    return posix_memalign((void **)&fixture->buffer, 4096, BLOCK);
}

static int tear_down(void **state)
{
    Fixture *fixture = *state;
    engine_lane_clear(&fixture->lane);
    engine_free(fixture->engine);
    world_free(fixture->world);
    free(fixture->buffer);
    g_free(fixture);
    return 0;
}

/* The world again, with direct I/O; skips where there is none, or no ring. */
static Fixture *require_direct(void **state)
{
    Fixture *fixture = *state;
    world_close(fixture->world);
    fixture->world->cache = CACHE_DIRECT;
    if (engine_lane_can_io(&fixture->lane) && world_try_open(fixture->world, NULL) != NULL)
        return fixture;
    store_close(g_steal_pointer(&fixture->world->store));
    skip();
    return NULL;
}

static int wait_result(Fixture *fixture, TestIo *test)
{
    while (!test->done) {
        engine_lane_poll(&fixture->lane, NULL, 0, 1000);
    }
    return test->result;
}

static bool start_write(Fixture *fixture, TestIo *test, uint64_t offset, unsigned flags)
{
    test->io.done = finished;
    test->done = false;
    return disk_submit_write(fixture->world->disk, &fixture->lane, &test->io, fixture->buffer,
                             BLOCK, offset, flags);
}

static void writes_come_out_and_are_recorded(void **state)
{
    Fixture *fixture = require_direct(state);
    World *world = fixture->world;
    TestIo test;
    bool taken = false;

    world_add(world, "a", BLOCK);
    memset(fixture->buffer, 'a', BLOCK);
    /* The first one may have to wait for its record, and then does not go this way. */
    assert_int_equal(disk_pwrite(world->disk, fixture->buffer, BLOCK, 0, 0), 0);
    for (int i = 0; i < 1000 && !taken; i++) {
        taken = start_write(fixture, &test, BLOCK, 0);
        usleep(taken ? 0 : 10000);
    }
    assert_true(taken);
    assert_int_equal(wait_result(fixture, &test), 0);
    assert_true(world_is_dirty(world, "a", BLOCK));
    assert_int_equal(world_dirty(world, "a"), 2 * BLOCK);

    memset(fixture->buffer, 0, BLOCK);
    test.done = false;
    assert_true(
        disk_submit_read(world->disk, &fixture->lane, &test.io, fixture->buffer, BLOCK, BLOCK));
    assert_int_equal(wait_result(fixture, &test), 0);
    assert_int_equal(fixture->buffer[0], 'a');
    assert_int_equal(fixture->buffer[BLOCK - 1], 'a');
}

static void what_cannot_go_this_way_leaves_no_trace(void **state)
{
    Fixture *fixture = require_direct(state);
    Disk *disk = fixture->world->disk;
    TestIo test;

    assert_false(start_write(fixture, &test, 100, 0));
    assert_false(start_write(fixture, &test, 0, IO_FUA));
    assert_false(disk_submit_write(disk, &fixture->lane, &test.io, fixture->buffer, 0, 0, 0));
    /* Nobody was left inside the gate: a change can be made. */
    world_add(fixture->world, "a", BLOCK);
    assert_int_equal(world_dirty(fixture->world, "a"), 0);
}

/* --- a backend that lets a transfer finish when the test says so --- */

static BackendIo *_Atomic held;

static bool hold_submit(Backend *backend, EngineLane *lane, BackendIo *io, bool write, void *buffer,
                        size_t length, uint64_t offset, unsigned flags)
{
    held = io;
    return true;
}

static void *add_bitmap(void *world)
{
    world_add(world, "b", BLOCK);
    return NULL;
}

static void a_change_waits_for_writes_in_flight(void **state)
{
    Fixture *fixture = require_direct(state);
    World *world = fixture->world;
    Backend *backend = (Backend *)disk_backend(world->disk);
    const BackendOps *real = backend->ops;
    BackendOps ops = *real;
    pthread_t thread;
    TestIo test, late;

    ops.submit = hold_submit;
    backend->ops = &ops;
    assert_true(start_write(fixture, &test, 0, 0));
    pthread_create(&thread, NULL, add_bitmap, world);
    /* The gate closes: writes do not go this way any more. */
    while (start_write(fixture, &late, BLOCK, 0)) {
        held->done(held, 0);
        assert_int_equal(wait_result(fixture, &late), 0);
        held = &test.io.backend_io;
        usleep(100);
    }
    usleep(20000);
    assert_null(disk_find_bitmap(world->disk, "b"));
    held->done(held, -EIO);
    assert_int_equal(wait_result(fixture, &test), -EIO);
    pthread_join(thread, NULL);
    backend->ops = real;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(writes_come_out_and_are_recorded),
        TEST(what_cannot_go_this_way_leaves_no_trace),
        TEST(a_change_waits_for_writes_in_flight),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
