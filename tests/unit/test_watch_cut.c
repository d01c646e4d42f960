/* What is cut short in nbdd itself, a stop, a start or the growth of a disk, is not taken for
 * somebody else's change, nor for more than was done. */
#include "storage/disk_watch.h"
#include "storage/track_private.h"
#include "tests/unit/comes.h"
#include "tests/unit/sick_vfs.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

/* A clean stop that was cut short anywhere, after it had marked the file or before: nobody else has
 * changed it. */
static void test_stop_cut_short(void **state)
{
    bool reached = true;
    for (long call = 0; reached; call++) {
        World *world = world_new(4 * MiB);
        world_add(world, "a", 65536);
        world_write(world, 0, 4096);
        world_let_time_pass(world);
        atomic_store(&sick_calls, 0);
        atomic_store(&sick_call, call);
        disk_close_clean(world->disk, NULL);
        reached = atomic_load(&sick_calls) > call;
        atomic_store(&sick_call, -1);
        world_drop(world);
        world_open(world);
        BitmapInfo info = world_info(world, "a");
        if (info.state == BITMAP_INVALID)
            fail_msg("at call %ld: %s", call, info.reason);
        bitmap_info_clear(&info);
        world_free(world);
    }
}

static bool do_nothing(StoreTxn *txn, gpointer data, GError **error)
{
    return true;
}

/* The file has grown, and the disk could not: no bitmap has what is new, so none may be believed to
 * have it. */
static void test_growth_that_failed(void **state)
{
    World *world = world_new(4 * MiB);
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    assert_int_equal(truncate(world->image, 8 * MiB), 0);
    world_write_behind(world, 5 * MiB);
    atomic_store(&sick_syncs, -1);
    assert_false(disk_refresh(world->disk, NULL));
    atomic_store(&sick_syncs, 0);
    bool ok = false;
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    while (!ok && g_get_monotonic_time() < end) {
        g_usleep(50000);
        ok = store_transact(world->store, do_nothing, NULL, NULL);
    }
    assert_true(ok);
    world_close(world);
    world_open(world);
    BitmapInfo info = world_info(world, "a");
    if (info.state != BITMAP_INVALID)
        assert_true(world_is_dirty(world, "a", 5 * MiB));
    bitmap_info_clear(&info);
    world_free(world);
}

static bool store_change(StoreTxn *txn, gpointer data, GError **error)
{
    return disk_change_store(data, txn, error);
}

/* In a process of its own: adds a disk and its first bitmap, and dies as soon as that is stored. */
static void add_and_die(World *world)
{
    world->options.runtime_dir = world->state;
    world->store = store_open_with(world->state, &world->options, NULL);
    Disk *disk = disk_open_new(world->store, "d", world->image, false, world->cache, NULL);
    world_put_row(world);
    DiskChange *change = disk ? disk_change_begin(disk, G_MAXINT64, NULL) : NULL;
    bool ok = change && disk_change_add(change, "a", 65536, true, DURABILITY_POWER, NULL) &&
              disk_change_freeze(&change, 1, G_MAXINT64, NULL) &&
              store_transact(world->store, store_change, change, NULL);
    _exit(ok ? 0 : 1);
}

static bool dies_marking;

int __real_fsetxattr(int fd, const char *name, const void *value, size_t size, int flags);
int __wrap_fsetxattr(int fd, const char *name, const void *value, size_t size, int flags);
int __wrap_fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
    int result = __real_fsetxattr(fd, name, value, size, flags);
    if (dies_marking)
        _exit(0);
    return result;
}

/* The start after a crash ends in one itself, as it marks the file: that was not somebody else. */
static void test_killed_marking(void **state)
{
    World *world = world_new(4 * MiB);
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    world_drop(world);
    g_usleep(1500 * 1000); /* longer than a write may have been in flight */
    pid_t child = fork();
    if (child == 0) {
        dies_marking = true;
        world_try_open(world, NULL);
        _exit(1); /* it was not marked */
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    world_open(world);
    BitmapInfo info = world_info(world, "a");
    if (info.state == BITMAP_INVALID)
        fail_msg("%s", info.reason);
    bitmap_info_clear(&info);
    world_free(world);
}

static void test_killed_after_the_first_bitmap(void **state)
{
    World *world = world_new(4 * MiB);
    world_drop(world);
    world_lose_pages(world);
    pid_t child = fork();
    if (child == 0)
        add_and_die(world);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    world_open(world);
    BitmapInfo info = world_info(world, "a");
    if (info.state != BITMAP_RECORDING)
        fail_msg("%s", info.reason);
    bitmap_info_clear(&info);
    world_free(world);
}

int main(void)
{
    sick_vfs_register();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_cut_short),
        cmocka_unit_test(test_growth_that_failed),
        cmocka_unit_test(test_killed_marking),
        cmocka_unit_test(test_killed_after_the_first_bitmap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
