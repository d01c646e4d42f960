/* The file of invalidations: that it is there after a power cut, and what becomes of a record once
 * it has been carried out, the one that stands for all bitmaps among them. */
#include "storage/store_invalid.h"
#include "storage/track_private.h"
#include "tests/unit/sick_vfs.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Records for one bitmap each. */
#define SINGLE 255

/* A directory was synced that had the file in it. */
static bool named;

int __real_fsync(int fd);
int __wrap_fsync(int fd);

int __wrap_fsync(int fd)
{
    named = named || faccessat(fd, "invalid", F_OK, 0) == 0;
    return __real_fsync(fd);
}

/* Records that can still be written; -1: all. */
static int writable = -1;

ssize_t __real_pwrite64(int fd, const void *data, size_t length, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t length, off_t offset);

ssize_t __wrap_pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    if (length == 512 && writable == 0) {
        errno = EIO;
        return -1;
    }
    writable -= length == 512 && writable > 0;
    return __real_pwrite64(fd, data, length, offset);
}

static void test_its_name_is_synced(void **state)
{
    named = false;
    World *world = world_new(MiB);
    assert_true(named);
    world_free(world);
}

static void put(World *world, const char *generation)
{
    GError *error = NULL;
    must(store_invalid_put(world->store->invalid, generation, "a test", &error), error);
}

static void each_of_others(World *world, unsigned count,
                           void (*function)(World *world, const char *generation))
{
    for (unsigned i = 0; i < count; i++) {
        g_autofree char *generation = g_strdup_printf("other-%u", i);
        function(world, generation);
    }
}

static void forget(World *world, const char *generation)
{
    store_invalid_forget(world->store->invalid, generation);
}

static BitmapState reopened(World *world, const char *name)
{
    world_close(world);
    world_open(world);
    BitmapInfo info = world_info(world, name);
    BitmapState found = info.state;
    bitmap_info_clear(&info);
    return found;
}

static World *new_world(void)
{
    World *world = world_new(16 * MiB);
    world_add(world, "a", 65536);
    return world;
}

static void test_more_than_there_is_room_for(void **state)
{
    World *world = new_world();
    each_of_others(world, SINGLE, put);
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    each_of_others(world, SINGLE + 3, put);
    assert_int_equal(reopened(world, "a"), BITMAP_INVALID);
    world_do(world, disk_change_clear, "a");
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    world_free(world);
}

/* As long as it stands for one that is not in the database yet. */
static void test_the_record_for_all_is_forgotten(void **state)
{
    World *world = new_world();
    each_of_others(world, SINGLE + 3, put);
    each_of_others(world, SINGLE + 2, forget);
    assert_int_equal(reopened(world, "a"), BITMAP_INVALID);
    world_do(world, disk_change_clear, "a");
    each_of_others(world, SINGLE + 3, put);
    each_of_others(world, SINGLE + 3, forget);
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    world_free(world);
}

/* A bitmap with another generation, or none any more, is not what it stood for. */
static void test_a_change_forgets(void **state)
{
    World *world = new_world();
    each_of_others(world, SINGLE, put);
    world_add(world, "b", 65536);
    for (unsigned i = 0; i < 2; i++) {
        BitmapInfo info = world_info(world, i ? "b" : "a");
        put(world, info.generation);
        bitmap_info_clear(&info);
    }
    world_do(world, disk_change_remove, "b");
    world_do(world, disk_change_clear, "a");
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    world_free(world);
}

/* The same from the state disk that is full on: given up, stored after all, cleared. */
static void test_given_up_and_cleared(void **state)
{
    static const char data[4096];
    World *world = new_world();
    GError *error = NULL;
    world_close(world);
    world->options.on_failure = STORE_FAILURE_INVALIDATE;
    world->options.failure_seconds = 0;
    world_open(world);
    each_of_others(world, SINGLE, put);
    atomic_store(&sick_writes, -1);
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 5 * MiB, 0), 0);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    atomic_store(&sick_writes, 0);
    bool ok = false;
    for (unsigned i = 0; !ok && i < 600; i++) {
        DiskChange *change = world_begin(world);
        must(disk_change_clear(change, "a", NULL, &error), error);
        ok = world_try_commit(world, change, NULL);
        g_usleep(ok ? 0 : 50000);
    }
    assert_true(ok);
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    world_free(world);
}

/* Cleared before the database has heard that it was given up: it has the old bits still. */
static void test_given_up_and_cleared_at_once(void **state)
{
    static const char data[4096];
    World *world = new_world();
    world_close(world);
    world->options.on_failure = STORE_FAILURE_INVALIDATE;
    world->options.checkpoint_seconds = 3600;
    world_open(world);
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 0, 0), 0);
    assert_true(disk_checkpoint(world->disk, NULL));
    atomic_store(&world->disk->track->failing, true);
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 5 * MiB, 0), 0);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    world_do(world, disk_change_clear, "a");
    assert_int_equal(world_dirty(world, "a"), 0);
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    assert_int_equal(world_dirty(world, "a"), 0);
    world_free(world);
}

/* Not all of a disk's bitmaps can be given up, so the write fails and they are as good as before;
 * also when the state has long been as it should. */
static void test_given_up_in_part(void **state)
{
    static const char data[4096];
    World *world = new_world();
    world_close(world);
    world->options.on_failure = STORE_FAILURE_INVALIDATE;
    world->options.checkpoint_seconds = 3600;
    world_open(world);
    world_add(world, "b", 65536);
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 0, 0), 0);
    atomic_store(&world->disk->track->failing, true);
    writable = 1;
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 5 * MiB, 0), -EIO);
    writable = -1;
    assert_true(disk_checkpoint(world->disk, NULL));
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 5 * MiB, 0), 0);
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    assert_int_equal(reopened(world, "b"), BITMAP_RECORDING);
    world_free(world);
}

static bool is_empty(World *world)
{
    g_autofree char *path = g_build_filename(world->state, "invalid", NULL);
    g_autofree char *data = NULL;
    gsize length, used = 0;
    assert_true(g_file_get_contents(path, &data, &length, NULL));
    for (gsize i = 0; i < length; i++)
        used += data[i] != 0;
    return used == 0;
}

static bool do_nothing(StoreTxn *txn, gpointer data, GError **error)
{
    return true;
}

/* An add whose COMMIT failed is on record until the database has been rebuilt without it. */
static void forget_after_a_doubt(bool disk_goes)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    DiskChange *change = world_begin(world);
    must(disk_change_add(change, "a", 65536, true, DURABILITY_POWER, &error), error);
    atomic_store(&sick_syncs, -1);
    assert_false(world_try_commit(world, change, NULL));
    assert_false(is_empty(world));
    if (disk_goes) {
        disk_unref(world->disk);
        world->disk = NULL;
    }
    atomic_store(&sick_syncs, 0);
    bool ok = false;
    for (unsigned i = 0; !ok && i < 600; i++) {
        ok = store_transact(world->store, do_nothing, NULL, NULL);
        g_usleep(ok ? 0 : 50000);
    }
    assert_true(ok);
    assert_true(is_empty(world));
    world_drop(world);
    world_open(world);
    world_add(world, "a", 65536);
    assert_int_equal(reopened(world, "a"), BITMAP_RECORDING);
    world_free(world);
}

static void test_the_end_of_a_doubt_forgets(void **state)
{
    forget_after_a_doubt(false);
    forget_after_a_doubt(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_its_name_is_synced),
        cmocka_unit_test(test_more_than_there_is_room_for),
        cmocka_unit_test(test_the_record_for_all_is_forgotten),
        cmocka_unit_test(test_a_change_forgets),
        cmocka_unit_test(test_given_up_and_cleared),
        cmocka_unit_test(test_given_up_and_cleared_at_once),
        cmocka_unit_test(test_given_up_in_part),
        cmocka_unit_test(test_the_end_of_a_doubt_forgets),
    };
    sick_vfs_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
