/* Nth-call sweeps: a scenario is played again and again, and each time another call fails, once,
 * until it is played to its end and none did. No crash, nothing that was written is clean, and what
 * failed works when it is tried again.
 *
 * NBDD_SWEEP=full tries every call; otherwise it is a sample of them, another one each time. */
#include "storage/bitmap_private.h"
#include "tests/unit/sick_memory.h"
#include "tests/unit/sick_vfs.h"
#include "tests/unit/world.h"
#include <string.h>

#define WRITES 18
/* Of a sample. */
#define PLAYS 12
/* Of opening what failed to open. A database that has to be rebuilt takes its time. */
#define ATTEMPTS 300

typedef struct {
    World *world;
    int rc[WRITES];
    unsigned cleared, disabled, added; /* writes before it was tried */
    char generation[40];               /* of "a", at first */
    const char *step;
} Play;

static void write_some(Play *play, unsigned from, unsigned to)
{
    static const char data[4096] = {1};
    for (unsigned i = from; i < to; i++) {
        play->rc[i] = disk_pwrite(play->world->disk, data, sizeof data, i * MiB, 0);
        if (i % 3 == 2)
            disk_checkpoint(play->world->disk, NULL);
    }
}

/* An error, when there is one, says something. */
static void check_error(Play *play, bool ok, GError **error)
{
    if (ok == (*error != NULL) || (*error && (*error)->message[0] == 0))
        fail_msg("%s: %s", play->step, ok ? "done, with an error" : "failed, without an error");
    g_clear_error(error);
}

static void change(Play *play, WorldOperation operation, const char *name)
{
    GError *error = NULL;
    DiskChange *change = world_begin(play->world);
    bool ok = operation(change, name, NULL, &error);
    if (ok)
        ok = world_try_commit(play->world, change, &error);
    else
        disk_change_finish(change, false);
    check_error(play, ok, &error);
}

static bool add(DiskChange *change, const char *name, const char *if_generation, GError **error)
{
    return disk_change_add(change, name, 512, true, DURABILITY_POWER, error);
}

/* Opens the state and the disk; what failed for once works when it is tried again. */
static void open_again(Play *play)
{
    World *world = play->world;
    for (unsigned attempt = 0; world->disk == NULL; attempt++) {
        GError *error = NULL;
        if (world->store == NULL)
            world->store = store_open_with(world->state, &world->options, &error);
        if (world->store)
            world->disk =
                disk_open(world->store, 0, "d", world->image, false, CACHE_WRITEBACK, &error);
        if (world->disk == NULL && attempt >= ATTEMPTS)
            fail_msg("%s: again: %s", play->step, error ? error->message : "no error");
        check_error(play, world->disk != NULL, &error);
        if (attempt > 0)
            g_usleep(100000);
    }
}

static void run(Play *play)
{
    World *world = play->world;
    GError *error = NULL;
    play->step = "write";
    write_some(play, 0, 8);
    play->step = "clear";
    play->cleared = 8;
    change(play, disk_change_clear, "a");
    write_some(play, 8, 11);
    play->step = "add";
    play->added = 11;
    change(play, add, "c");
    write_some(play, 11, 14);
    play->step = "disable";
    play->disabled = 14;
    change(play, disk_change_disable, "b");
    write_some(play, 14, 16);
    play->step = "close";
    check_error(play, disk_close_clean(world->disk, &error), &error);
    world_drop(world);
    play->step = "open";
    open_again(play);
    write_some(play, 16, WRITES);
    play->step = "open after a crash";
    world_drop(world);
    open_again(play);
}

static void must_have(Play *play, const char *name, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        if (play->rc[i] == 0 && !world_is_dirty(play->world, name, i * MiB))
            fail_msg("write %u is clean in %s", i, name);
    }
}

static void check(Play *play)
{
    World *world = play->world;
    BitmapInfo a = world_info(world, "a"), b = world_info(world, "b");
    if (a.state == BITMAP_INVALID || b.state == BITMAP_INVALID)
        fail_msg("invalid: %s", a.reason ? a.reason : b.reason);
    bool was_cleared = strcmp(a.generation, play->generation) != 0;
    must_have(play, "a", was_cleared ? play->cleared : 0, WRITES);
    must_have(play, "b", 0, b.recording ? WRITES : play->disabled);
    for (unsigned i = play->disabled; i < WRITES; i++)
        assert_true(b.recording || play->rc[i] != 0 || b.missed_writes);
    g_autoptr(Bitmap) c = disk_find_bitmap(world->disk, "c");
    if (c)
        must_have(play, "c", play->added, WRITES);
    bitmap_info_clear(&a);
    bitmap_info_clear(&b);
    assert_int_equal(disk_pwrite(world->disk, "x", 1, 0, IO_FUA), 0);
}

static void prepare(Play *play)
{
    World *world = world_new(32 * MiB);
    *play = (Play){.world = world};
    world_close(world);
    world->options.region_size = MiB;
    world->options.failure_seconds = 0;
    world->options.checkpoint_seconds = 3600;
    world->options.runtime_dir = world->state;
    world_open(world);
    world_add(world, "a", 65536);
    world_add(world, "b", 4096);
    BitmapInfo info = world_info(world, "a");
    g_strlcpy(play->generation, info.generation, sizeof play->generation);
    bitmap_info_clear(&info);
}

/* Plays once; the call-th call fails (-1: none). How many there were. */
static long play_once(_Atomic long *calls, _Atomic long *failing, long call)
{
    Play play;
    prepare(&play);
    atomic_store(calls, 0);
    atomic_store(failing, call);
    run(&play);
    long count = atomic_load(calls);
    atomic_store(failing, -1);
    check(&play);
    world_free(play.world);
    return count;
}

static void sweep(const char *what, _Atomic long *calls, _Atomic long *failing)
{
    long count = play_once(calls, failing, -1);
    bool full = g_strcmp0(g_getenv("NBDD_SWEEP"), "full") == 0;
    GRand *rand = g_rand_new();
    unsigned plays = 0;
    for (long call = 0; call < count;) {
        print_message("# %s %ld of %ld\n", what, call, count);
        long now = play_once(calls, failing, call);
        count = full ? MAX(count, now) : count;
        call += full ? 1 : 1 + g_rand_int_range(rand, 0, (gint32)MAX(1, 2 * count / PLAYS - 1));
        plays++;
    }
    print_message("# %s: %u of %ld calls failed in turn\n", what, plays, count);
    g_rand_free(rand);
}

/* A call that fails while the state and a disk are opened is neither damage nor forgets what the
 * process before left. All of them: an opening is short. */
static void test_every_call_of_an_opening(void **state)
{
    Play play;
    prepare(&play);
    play.step = "open";
    write_some(&play, 0, 4);
    long count;
    long call = 0;
    do {
        world_drop(play.world);
        atomic_store(&sick_calls, 0);
        atomic_store(&sick_call, call);
        open_again(&play);
        count = atomic_load(&sick_calls);
        atomic_store(&sick_call, -1);
        if (store_notice(play.world->store))
            fail_msg("call %ld: %s", call, store_notice(play.world->store));
        BitmapInfo info = world_info(play.world, "a");
        if (info.state == BITMAP_INVALID)
            fail_msg("call %ld: %s", call, info.reason);
        bitmap_info_clear(&info);
        must_have(&play, "a", 0, 4);
    } while (call++ < count);
    print_message("# opening: %ld calls failed in turn\n", count);
    world_free(play.world);
}

static void test_every_call_of_sqlite(void **state)
{
    sweep("call", &sick_calls, &sick_call);
}

static void test_every_allocation_of_sqlite(void **state)
{
    sweep("allocation of SQLite's", &sick_sqlite_allocations, &sick_sqlite_allocation);
}

static void test_every_allocation(void **state)
{
    sweep("allocation", &sick_allocations, &sick_allocation);
}

/* Memory that is short for the note of what is stored must not make it say more than is true. */
static void test_every_allocation_beside_one_bitmap(void **state)
{
    long count = 0;
    for (long call = 0; call <= count; call++) {
        Play play;
        World *world = world_new(32 * MiB);
        play = (Play){.world = world, .step = "open"};
        world->options.checkpoint_seconds = 3600;
        world_add(world, "a", 4096);
        world_write(world, 0, 4096);
        world_close(world);
        atomic_store(&sick_allocations, 0);
        atomic_store(&sick_allocation, call);
        open_again(&play);
        world_write(world, 5 * MiB, 4096);
        assert_true(disk_checkpoint(world->disk, NULL));
        world_write(world, 15 * MiB, 4096);
        count = atomic_load(&sick_allocations);
        atomic_store(&sick_allocation, -1);
        world_drop(world);
        open_again(&play);
        for (uint64_t offset = 5 * MiB; offset < 16 * MiB; offset += 10 * MiB) {
            if (!world_is_dirty(world, "a", offset))
                fail_msg("allocation %ld: the write at %u MiB is clean", call,
                         (unsigned)(offset / MiB));
        }
        world_free(world);
    }
    print_message("# one bitmap: %ld allocations failed in turn\n", count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_of_an_opening),
        cmocka_unit_test(test_every_allocation_beside_one_bitmap),
        cmocka_unit_test(test_every_call_of_sqlite),
        cmocka_unit_test(test_every_allocation_of_sqlite),
        cmocka_unit_test(test_every_allocation),
    };
    sick_memory_register();
    sick_vfs_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
