/* How regions are put on record and taken off it: group commit, read-ahead, retirement, the bounds
 * on them. What is expected is counted in transactions and regions. */
#include "storage/track_private.h"
#include "tests/unit/comes.h"
#include "tests/unit/sick_vfs.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <semaphore.h>
#include <unistd.h>

#define REGION (64 * KiB)

static World *new_world(uint64_t size, StoreOptions options)
{
    World *world = world_new(size);
    world_close(world);
    world->options = options;
    world_open(world);
    world_add(world, "a", 512);
    world_add(world, "b", 65536);
    world_write(world, 0, 512); /* the disk is not clean from here on */
    return world;
}

static StoreOptions small_regions(void)
{
    StoreOptions options = store_default_options;
    options.region_size = REGION;
    options.checkpoint_seconds = 3600;
    return options;
}

static StoreStats stats_of(World *world)
{
    StoreStats stats;
    store_get_stats(world->store, &stats);
    return stats;
}

static uint64_t over_reported(World *world, const char *name)
{
    BitmapInfo info = world_info(world, name);
    uint64_t bytes = info.over_reported_bytes;
    assert_int_not_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    return bytes;
}

static void kill_and_open(World *world)
{
    world_drop(world);
    world_open(world);
}

/* --- group commit --- */

typedef struct {
    World *world;
    sem_t began, go;
} Plug;

static bool hold_the_store(StoreTxn *txn, gpointer data, GError **error)
{
    Plug *plug = data;
    sem_post(&plug->began);
    sem_wait(&plug->go);
    return true;
}

static void *plug_main(void *data)
{
    Plug *plug = data;
    store_transact(plug->world->store, hold_the_store, plug, NULL);
    return NULL;
}

typedef struct {
    DiskWaiter waiter;
    sem_t *ready;
} Asking;

static void on_ready(DiskWaiter *waiter)
{
    sem_post(((Asking *)(gpointer)waiter)->ready);
}

/* All who come while one transaction runs share the next one. */
static void test_group_commit(void **state)
{
    enum { WRITERS = 100 };
    World *world = new_world(64 * MiB, small_regions());
    Plug plug = {.world = world};
    Asking asking[WRITERS];
    sem_t ready;
    pthread_t thread;
    sem_init(&plug.began, 0, 0);
    sem_init(&plug.go, 0, 0);
    sem_init(&ready, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, plug_main, &plug), 0);
    sem_wait(&plug.began);
    StoreStats before = stats_of(world);
    for (unsigned i = 0; i < WRITERS; i++) {
        asking[i] = (Asking){.waiter = {.ready = on_ready}, .ready = &ready};
        /* Far from each other, two writers to each region. */
        assert_int_equal(disk_prepare_write(world->disk, (i / 2 * 13 + 5) * REGION + i * 512, 512,
                                            &asking[i].waiter),
                         -EINPROGRESS);
    }
    sem_post(&plug.go);
    for (unsigned i = 0; i < WRITERS; i++)
        sem_wait(&ready);
    pthread_join(thread, NULL);
    StoreStats after = stats_of(world);
    assert_int_equal(after.commits, before.commits + 1);
    assert_int_equal(after.intents_added, before.intents_added + WRITERS / 2);
    world_free(world);
}

/* --- read-ahead --- */

static void test_sequential_stream(void **state)
{
    World *world = new_world(64 * MiB, small_regions());
    StoreStats before = stats_of(world);
    for (uint64_t offset = REGION; offset < 64 * MiB; offset += 16 * KiB)
        world_write(world, offset, 16 * KiB);
    StoreStats after = stats_of(world);
    uint64_t regions = 64 * MiB / REGION - 1, commits = after.commits - before.commits;
    assert_int_equal(after.intents_added - before.intents_added, regions);
    if (commits > regions / world->options.read_ahead + 12) /* the window grows by and by */
        fail_msg("%u commits for %u regions", (unsigned)commits, (unsigned)regions);
    world_free(world);
}

static void test_no_stream_no_read_ahead(void **state)
{
    World *world = new_world(64 * MiB, small_regions());
    StoreStats before = stats_of(world);
    for (uint64_t i = 0; i < 50; i++)
        world_write(world, (i * 37 % 1000 + 5) * REGION, 512);
    StoreStats after = stats_of(world);
    assert_int_equal(after.intents_added - before.intents_added, 50);
    assert_int_equal(after.commits - before.commits, 50);
    world_free(world);
}

/* --- retirement --- */

/* Until nothing is on record any more of what was. A writer that does not run before its region is
 * being retired again needs a second record: there may be more than that many. */
static void wait_retired(World *world, uint64_t count)
{
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    StoreStats stats = stats_of(world);
    while (stats.intents_retired < stats.intents_added && g_get_monotonic_time() < end) {
        g_usleep(5000);
        stats = stats_of(world);
    }
    assert_int_equal(stats.intents_retired, stats.intents_added);
    assert_true(stats.intents_added >= count);
}

static void test_quiet_regions_retire(void **state)
{
    StoreOptions options = small_regions();
    options.checkpoint_seconds = 0;
    options.quiet_seconds = 0;
    World *world = new_world(64 * MiB, options);
    for (uint64_t i = 1; i < 20; i++)
        world_write(world, i * 3 * REGION, 512);
    wait_retired(world, 20);
    kill_and_open(world);
    /* Exactly what was written, although nobody said goodbye. */
    assert_int_equal(over_reported(world, "a"), 0);
    assert_int_equal(world_dirty(world, "a"), 20 * 512);
    assert_int_equal(world_dirty(world, "b"), 20 * 65536);
    /* A retired region needs a new record before the next write to other blocks of it. */
    StoreStats before = stats_of(world);
    world_write(world, 3 * REGION, 512);
    assert_int_equal(stats_of(world).intents_added, before.intents_added);
    world_write(world, 3 * REGION + 512, 512);
    assert_true(stats_of(world).intents_added > before.intents_added);
    world_free(world);
}

static void test_intents_are_bounded(void **state)
{
    StoreOptions options = small_regions();
    options.max_intents = 16;
    World *world = new_world(64 * MiB, options);
    for (uint64_t i = 1; i <= 200; i++)
        world_write(world, i * 5 * REGION, 512);
    StoreStats stats = stats_of(world);
    assert_true(stats.intents_added - stats.intents_retired <= 16);
    kill_and_open(world);
    assert_in_range(over_reported(world, "a"), 1, 16 * REGION);
    for (uint64_t i = 1; i <= 200; i++)
        assert_true(world_is_dirty(world, "a", i * 5 * REGION));
    world_free(world);
}

/* Too large for intents: its bits are stored at once. */
static void test_a_wide_write(void **state)
{
    World *world = new_world(64 * MiB, small_regions());
    StoreStats before = stats_of(world);
    assert_int_equal(disk_trim(world->disk, 8 * MiB, 32 * MiB, 0), 0);
    StoreStats after = stats_of(world);
    assert_int_equal(after.intents_added, before.intents_added);
    assert_int_equal(after.commits, before.commits + 1);
    kill_and_open(world);
    /* That, and the region of the very first write. */
    assert_int_equal(world_dirty(world, "a"), 32 * MiB + REGION);
    world_free(world);
}

/* --- other sizes of regions --- */

/* Intents tell their own length: what was put on record under one setting is recovered under
 * another. */
static void test_region_size_changes(void **state)
{
    static const uint64_t sizes[][2] = {{MiB, REGION}, {REGION, MiB}, {MiB, 1024 * GiB}};
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        StoreOptions options = small_regions();
        options.region_size = sizes[i][0];
        World *world = new_world(16 * MiB, options);
        world_write(world, 5 * MiB + 4096, 512);
        world_write(world, 15 * MiB + 512, 512);
        world_drop(world);
        world->options.region_size = sizes[i][1];
        world_open(world);
        uint64_t first = 5 * MiB, end = first + sizes[i][0];
        assert_true(world_is_dirty(world, "a", first) && world_is_dirty(world, "a", end - 1));
        assert_false(world_is_dirty(world, "a", end));
        assert_int_equal(over_reported(world, "a"), 3 * sizes[i][0]);
        world_write(world, 9 * MiB, 512);
        kill_and_open(world);
        assert_true(world_is_dirty(world, "a", 9 * MiB) && world_is_dirty(world, "b", 5 * MiB));
        world_free(world);
    }
}

/* A very large disk takes larger regions by itself. */
static void test_a_very_large_disk(void **state)
{
    uint64_t size = UINT64_C(8) << 40;
    World *world = world_new(MiB);
    world_close(world);
    if (truncate(world->image, (off_t)size) != 0) {
        world_open(world);
        world_free(world);
        skip(); /* this file system has no such files */
    }
    world->options = small_regions();
    world_open(world);
    world_add(world, "a", 65536);
    world_write(world, size - 512, 512);
    world_write(world, size / 2, 512);
    kill_and_open(world);
    assert_true(world_is_dirty(world, "a", size - 1) && world_is_dirty(world, "a", size / 2));
    assert_int_equal(world_dirty(world, "a"), 2 * (size >> 22));
    world_free(world);
}

/* --- a disk that shrinks --- */

static void count_intent(uint64_t offset, uint64_t length, gpointer data)
{
    (*(unsigned *)data)++;
}

static bool load_intents(StoreTxn *txn, gpointer data, GError **error)
{
    int64_t id;
    return store_find_disk(txn, "d", &id, error) &&
           store_load_intents(txn, id, count_intent, data, error);
}

static unsigned stored_intents(World *world)
{
    GError *error = NULL;
    unsigned count = 0;
    must(store_transact(world->store, load_intents, &count, &error), error);
    return count;
}

static void resize(World *world, uint64_t size)
{
    GError *error = NULL;
    assert_int_equal(truncate(world->image, (off_t)size), 0);
    must(disk_refresh(world->disk, &error), error);
}

/* What is beyond the new end has no intent any more: not in the store, nor in memory, where the
 * next turn of the background would go behind the end of the array. */
static void test_shrinking_drops_intents(void **state)
{
    World *world = new_world(512 * MiB, small_regions());
    world_write(world, 500 * MiB, 512);
    world_write(world, 3 * REGION, 512);
    resize(world, 2 * MiB);
    assert_int_equal(stored_intents(world), 2);
    assert_true(disk_checkpoint(world->disk, NULL));
    assert_int_equal(stored_intents(world), 0);
    assert_int_equal(stats_of(world).intents_retired, 2);
    /* As large as before, it needs another one. */
    resize(world, 512 * MiB);
    world_do(world, disk_change_clear, "a");
    world_write(world, 500 * MiB, 512);
    assert_int_equal(stored_intents(world), 1);
    kill_and_open(world);
    assert_true(world_is_dirty(world, "a", 500 * MiB));
    world_free(world);
}

typedef struct {
    World *world;
    uint64_t offset;
    int rc;
} Late;

static void *write_late(void *data)
{
    static const char block[512];
    Late *late = data;
    late->rc = disk_pwrite(late->world->disk, block, sizeof block, late->offset, 0);
    return NULL;
}

static void wait_wanted(DiskTrack *track, guint count)
{
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    guint wanted = 0;
    while (wanted < count && g_get_monotonic_time() < end) {
        g_usleep(1000);
        pthread_mutex_lock(&track->lock);
        wanted = track->gathering.regions->len;
        pthread_mutex_unlock(&track->lock);
    }
    assert_int_equal(wanted, count);
}

/* Whoever waits for the intent of a region that is gone meanwhile is told. */
static void test_shrinking_answers_who_waits(void **state)
{
    World *world = new_world(512 * MiB, small_regions());
    Late inside = {world, 3 * REGION, -1}, outside = {world, 500 * MiB, -1};
    pthread_t threads[2];
    sem_t ready;
    sem_init(&ready, 0, 0);
    Asking asking = {.waiter = {.ready = on_ready}, .ready = &ready};
    track_freeze(world->disk->track); /* the store thread takes nothing up */
    assert_int_equal(pthread_create(&threads[0], NULL, write_late, &inside), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, write_late, &outside), 0);
    wait_wanted(world->disk->track, 2);
    assert_int_equal(disk_prepare_write(world->disk, 500 * MiB, 512, &asking.waiter), -EINPROGRESS);
    resize(world, 2 * MiB);
    for (unsigned i = 0; i < 2; i++)
        assert_true(ends(threads[i], NULL));
    assert_true(comes(&ready));
    assert_int_equal(inside.rc, 0);
    assert_int_equal(outside.rc, -ENOSPC);
    assert_int_equal(disk_prepare_write(world->disk, 500 * MiB, 512, &asking.waiter), 0);
    assert_int_equal(write_late(&outside) == NULL ? outside.rc : 0, -ENOSPC);
    assert_int_equal(disk_zero(world->disk, 2 * MiB - 512, 1024, 0), -ENOSPC);
    world_free(world);
}

static void *refresh(void *data)
{
    return GINT_TO_POINTER(disk_refresh(((World *)data)->disk, NULL));
}

static void wait_queued(Store *store)
{
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    bool queued = false;
    while (!queued && g_get_monotonic_time() < end) {
        g_usleep(1000);
        pthread_mutex_lock(&store->mutex);
        queued = store->first != NULL;
        pthread_mutex_unlock(&store->mutex);
    }
    assert_true(queued);
}

/* Wants so many regions, from `first` on, while the store is held up: they come all at once. */
#define WANTED 40

static void ask_for_many(Plug *plug, pthread_t *thread, Asking *asking, sem_t *ready,
                         uint64_t first)
{
    sem_init(&plug->began, 0, 0);
    sem_init(&plug->go, 0, 0);
    sem_init(ready, 0, 0);
    assert_int_equal(pthread_create(thread, NULL, plug_main, plug), 0);
    sem_wait(&plug->began);
    for (unsigned i = 0; i < WANTED; i++) {
        asking[i] = (Asking){.waiter = {.ready = on_ready}, .ready = ready};
        assert_int_equal(
            disk_prepare_write(plug->world->disk, first + 3 * i * MiB, 512, &asking[i].waiter),
            -EINPROGRESS);
    }
}

/* More is wanted than there may be: the rest, which nobody waits for, must not come up again. */
static void test_shrinking_drops_what_is_wanted(void **state)
{
    StoreOptions options = small_regions();
    options.max_intents = 16;
    World *world = new_world(512 * MiB, options);
    Plug plug = {.world = world};
    pthread_t threads[2];
    Asking asking[WANTED];
    sem_t ready;
    void *ok;
    ask_for_many(&plug, &threads[0], asking, &ready, 300 * MiB);
    assert_int_equal(truncate(world->image, 2 * MiB), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, refresh, world), 0);
    wait_queued(world->store);
    sem_post(&plug.go);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], &ok);
    assert_true(GPOINTER_TO_INT(ok));
    for (unsigned i = 0; i < WANTED; i++)
        sem_wait(&ready);
    world_write(world, 5 * REGION, 512);
    assert_true(disk_checkpoint(world->disk, NULL));
    assert_int_equal(stored_intents(world), 0);
    assert_int_equal(stats_of(world).intents_added, 1 + options.max_intents);
    world_free(world);
}

/* --- a disk that is not watched any more --- */

static void *remove_all(void *data)
{
    World *world = data;
    DiskChange *change = disk_change_begin(world->disk, G_MAXINT64, NULL);
    bool ok = disk_change_remove(change, "a", NULL, NULL) &&
              disk_change_remove(change, "b", NULL, NULL) && world_try_commit(world, change, NULL);
    return GINT_TO_POINTER(ok);
}

/* What is still wanted when the last bitmap goes is not stored any more, and so is on record for
 * nobody: not for the next bitmap either. */
static void test_the_last_bitmap_goes(void **state)
{
    StoreOptions options = small_regions();
    options.max_intents = 16;
    World *world = new_world(512 * MiB, options);
    Plug plug = {.world = world};
    pthread_t threads[2];
    Asking asking[WANTED];
    sem_t ready;
    void *ok;
    ask_for_many(&plug, &threads[0], asking, &ready, MiB);
    assert_int_equal(pthread_create(&threads[1], NULL, remove_all, world), 0);
    wait_queued(world->store);
    sem_post(&plug.go);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], &ok);
    assert_true(GPOINTER_TO_INT(ok));
    for (unsigned i = 0; i < WANTED; i++)
        sem_wait(&ready);
    world_add(world, "c", 512);
    world_write(world, (3 * (WANTED - 1) + 1) * MiB, 512);
    kill_and_open(world);
    assert_true(world_is_dirty(world, "c", (3 * (WANTED - 1) + 1) * MiB));
    world_free(world);
}

/* --- commits that fail --- */

static World *patient_world(void)
{
    StoreOptions options = small_regions();
    options.failure_seconds = 3600;
    return new_world(64 * MiB, options);
}

static void wait_put_back(DiskTrack *track, uint64_t ticket)
{
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    bool back = false;
    while (!back && g_get_monotonic_time() < end) {
        g_usleep(1000);
        pthread_mutex_lock(&track->lock);
        back = track->batch > ticket && track->gathering.regions->len > 0;
        pthread_mutex_unlock(&track->lock);
    }
    assert_true(back);
}

/* Between asking and waiting, what was asked for was tried, failed, and was put back. */
static void test_who_waits_late_is_told(void **state)
{
    World *world = patient_world();
    DiskTrack *track = world->disk->track;
    uint64_t ticket;
    sem_t ready;
    sem_init(&ready, 0, 0);
    Asking asking = {.waiter = {.ready = on_ready}, .ready = &ready};
    atomic_store(&sick_syncs, -1);
    assert_true(gate_enter(&world->disk->gate));
    assert_int_equal(track_admit(track, 5 * REGION, 5 * REGION + 512, &ticket), -EAGAIN);
    gate_leave(&world->disk->gate);
    wait_put_back(track, ticket);
    track_freeze(track); /* not again before there is somebody who waits */
    assert_true(track_notify(track, ticket, &asking.waiter));
    atomic_store(&sick_syncs, 0);
    track_thaw(track);
    assert_true(comes(&ready));
    world_free(world);
}

/* Somebody asks for a region that is retiring, and then it does not retire: when the commit that
 * need not do anything for it fails as well, there is nothing left to be tried again. */
static void test_who_waits_for_nothing_is_told(void **state)
{
    World *world = patient_world();
    DiskTrack *track = world->disk->track;
    sem_t ready;
    sem_init(&ready, 0, 0);
    Asking asking = {.waiter = {.ready = on_ready}, .ready = &ready};
    track_freeze(track);
    assert_int_equal(disk_prepare_write(world->disk, 5 * REGION, 512, &asking.waiter),
                     -EINPROGRESS);
    atomic_fetch_or(track_region(track, 5), REGION_DURABLE);
    atomic_store(&sick_syncs, -1);
    track_thaw(track);
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    while (stats_of(world).failures == 0 && g_get_monotonic_time() < end)
        g_usleep(1000);
    atomic_store(&sick_syncs, 0);
    assert_true(comes(&ready));
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_commit),
        cmocka_unit_test(test_sequential_stream),
        cmocka_unit_test(test_no_stream_no_read_ahead),
        cmocka_unit_test(test_quiet_regions_retire),
        cmocka_unit_test(test_intents_are_bounded),
        cmocka_unit_test(test_a_wide_write),
        cmocka_unit_test(test_region_size_changes),
        cmocka_unit_test(test_a_very_large_disk),
        cmocka_unit_test(test_shrinking_drops_intents),
        cmocka_unit_test(test_shrinking_answers_who_waits),
        cmocka_unit_test(test_shrinking_drops_what_is_wanted),
        cmocka_unit_test(test_the_last_bitmap_goes),
        cmocka_unit_test(test_who_waits_late_is_told),
        cmocka_unit_test(test_who_waits_for_nothing_is_told),
    };
    sick_vfs_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
