/* Who reads a bitmap's bits, as BLOCK_STATUS does, waits for nobody: not for those who replace the
 * bits, and not for what they hold meanwhile. And they do not pull the bits away from under it. */
#include "storage/track_private.h"
#include "tests/unit/comes.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#define SIZE    (64 * MiB)
#define BLOCK   (64 * KiB)
#define READERS 3
#define ROUNDS  150

static int setup(void **state)
{
    World *world = world_new(SIZE);
    world_add(world, "a", BLOCK);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    world_free(*state);
    return 0;
}

/* --- nothing to wait for --- */

static void *read_once(void *data)
{
    Bitmap *bitmap = data;
    ExtentList list;
    extent_list_init(&list, 0, 8);
    bool ok = bitmap_is_offered(bitmap) && bitmap_extents(bitmap, 0, SIZE, &list) == 0 &&
              list.count == 2 && list.total == SIZE && list.items[0].flags == EXTENT_DIRTY;
    extent_list_clear(&list);
    return ok ? NULL : (void *)"the extents are wrong";
}

static void test_answered_while_all_is_locked(void **state)
{
    World *world = *state;
    Disk *disk = world->disk;
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(disk, "a");
    pthread_t thread;
    void *problem;
    world_write(world, 0, BLOCK);
    assert_true(gate_close(&disk->gate, G_MAXINT64));
    track_lock(disk->track);
    pthread_mutex_lock(&disk->track->lock);
    pthread_mutex_lock(&disk->lock);
    pthread_rwlock_wrlock(&bitmap->lock);

    assert_int_equal(pthread_create(&thread, NULL, read_once, bitmap), 0);
    if (!ends(thread, &problem))
        g_error("a reader waits for who replaces the bits");
    assert_null(problem);

    pthread_rwlock_unlock(&bitmap->lock);
    pthread_mutex_unlock(&disk->lock);
    pthread_mutex_unlock(&disk->track->lock);
    track_unlock(disk->track);
    gate_open(&disk->gate);
}

/* --- under changes --- */

typedef struct {
    Disk *disk;
    pthread_t threads[READERS];
    _Atomic bool stop;
    _Atomic unsigned answers, refusals, other;
} Readers;

/* The bitmap that is there now, or one that is being removed: all of the disk as it was when the
 * bits were taken, or nothing. */
static void read_bitmap(Readers *readers, Bitmap *bitmap)
{
    ExtentList list;
    extent_list_init(&list, 0, 4096);
    int rc = bitmap_extents(bitmap, 0, SIZE, &list);
    if (rc == 0 && list.total == SIZE && list.count > 0)
        atomic_fetch_add(&readers->answers, 1);
    else if (rc == -EIO && list.count == 0)
        atomic_fetch_add(&readers->refusals, 1);
    else
        atomic_fetch_add(&readers->other, 1);
    extent_list_clear(&list);
}

static void *keep_reading(void *data)
{
    Readers *readers = data;
    while (!atomic_load(&readers->stop)) {
        g_autoptr(Bitmap) bitmap = disk_find_bitmap(readers->disk, "a");
        for (unsigned i = 0; bitmap != NULL && i < 50; i++)
            read_bitmap(readers, bitmap);
    }
    return NULL;
}

static void start_reading(Readers *readers)
{
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers->threads[i], NULL, keep_reading, readers), 0);
    while (atomic_load(&readers->answers) < 10)
        sched_yield();
}

static void stop_reading(Readers *readers)
{
    atomic_store(&readers->stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers->threads[i], NULL);
    assert_int_equal(readers->other, 0);
}

static void grow(World *world)
{
    GError *error = NULL;
    world->size += BLOCK;
    assert_int_equal(truncate(world->image, (off_t)world->size), 0);
    must(disk_refresh(world->disk, &error), error);
}

static void remove_and_add(World *world)
{
    GError *error = NULL;
    DiskChange *change = world_begin(world);
    must(disk_change_remove(change, "a", NULL, &error), error);
    must(disk_change_add(change, "a", BLOCK, true, DURABILITY_POWER, &error), error);
    world_commit(world, change);
}

/* What has been answered is seen by whoever asks afterwards, whichever bits are shown by then. */
static void check_now(World *world)
{
    uint64_t offset = g_random_int() % (SIZE / BLOCK) * BLOCK;
    world_write(world, offset, 512);
    assert_true(world_is_dirty(world, "a", offset));
}

static void test_bits_are_replaced_under_readers(void **state)
{
    World *world = *state;
    Readers readers = {.disk = world->disk};
    start_reading(&readers);
    for (unsigned round = 0; round < ROUNDS; round++) {
        check_now(world);
        if (round % 3 == 0)
            world_do(world, disk_change_clear, "a");
        else if (round % 3 == 1)
            grow(world);
        else
            remove_and_add(world);
        check_now(world);
    }
    stop_reading(&readers);
}

static void test_removed_under_readers(void **state)
{
    World *world = *state;
    Readers readers = {.disk = world->disk};
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, "a");
    start_reading(&readers);
    world_do(world, disk_change_remove, "a");
    unsigned before = readers.refusals;
    read_bitmap(&readers, bitmap);
    unsigned after = readers.refusals;
    bool offered = bitmap_is_offered(bitmap);
    stop_reading(&readers);
    assert_true(after > before);
    assert_false(offered);
}

/* The disk shrinks, and no bitmap survives that. */
static void test_given_up_under_readers(void **state)
{
    World *world = *state;
    GError *error = NULL;
    Readers readers = {.disk = world->disk};
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, "a");
    ExtentList list;
    start_reading(&readers);
    world->size = SIZE - BLOCK;
    bool shrunk = truncate(world->image, (off_t)world->size) == 0;
    bool ok = disk_refresh(world->disk, &error);
    bool offered = bitmap_is_offered(bitmap);
    extent_list_init(&list, 0, 8);
    int rc = bitmap_extents(bitmap, 0, BLOCK, &list);
    extent_list_clear(&list);
    stop_reading(&readers);
    assert_true(shrunk);
    must(ok, error);
    assert_false(offered);
    assert_int_equal(rc, -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answered_while_all_is_locked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bits_are_replaced_under_readers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed_under_readers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given_up_under_readers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
