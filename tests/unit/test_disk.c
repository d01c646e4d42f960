/* Disks with bitmaps, through storage/disk.h alone. */
#include "tests/unit/world.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
    *state = world_new(64 * MiB + 1000);
    return 0;
}

static int teardown(void **state)
{
    world_free(*state);
    return 0;
}

static bool fails_with(bool ok, GError **error, StorageErrorCode code)
{
    bool match = !ok && g_error_matches(*error, STORAGE_ERROR, (gint)code);
    g_clear_error(error);
    return match;
}

static void test_exact_over_clean_restarts(void **state)
{
    World *world = *state;
    world_add(world, "a", 65536);
    world_add(world, "b", 512);
    world_write(world, 3 * MiB + 100, 4096);
    assert_int_equal(world_dirty(world, "a"), 65536);
    assert_int_equal(world_dirty(world, "b"), 4096 + 512);
    for (int i = 0; i < 3; i++) {
        world_close(world);
        world_open(world);
        BitmapInfo info = world_info(world, "b");
        assert_int_equal(info.state, BITMAP_RECORDING);
        assert_int_equal(info.dirty_bytes, 4096 + 512);
        bitmap_info_clear(&info);
        assert_int_equal(world_dirty(world, "a"), 65536);
    }
    world_do(world, disk_change_clear, "a");
    assert_int_equal(world_dirty(world, "a"), 0);
    assert_int_equal(world_dirty(world, "b"), 4096 + 512);
}

static void test_last_block_is_partial(void **state)
{
    World *world = *state;
    world_add(world, "a", 65536);
    assert_int_equal(disk_trim(world->disk, world->size - 1, 1, 0), 0);
    assert_int_equal(world_dirty(world, "a"), 1000);
    assert_int_equal(disk_zero(world->disk, 0, world->size, IO_MAY_HOLE), 0);
    assert_int_equal(world_dirty(world, "a"), world->size);
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, "a");
    ExtentList list;
    extent_list_init(&list, 5, 10);
    assert_int_equal(bitmap_extents(bitmap, 5, world->size - 5, &list), 0);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.total, world->size - 5);
    extent_list_clear(&list);
}

static void test_extents_page(void **state)
{
    World *world = *state;
    world_add(world, "a", 4096);
    for (uint64_t i = 0; i < 1000; i++)
        world_write(world, i * 3 * 4096, 4096);
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, "a");
    uint64_t offset = 0, dirty = 0;
    unsigned lists = 0;
    while (offset < world->size) {
        ExtentList list;
        extent_list_init(&list, offset, 7);
        assert_int_equal(bitmap_extents(bitmap, offset, world->size - offset, &list), 0);
        assert_true(list.count > 0 && list.count <= 7);
        for (size_t i = 0; i < list.count; i++) {
            if (i > 0)
                assert_int_not_equal(list.items[i].flags, list.items[i - 1].flags);
            dirty += list.items[i].flags & EXTENT_DIRTY ? list.items[i].length : 0;
        }
        offset += list.total;
        lists++;
        extent_list_clear(&list);
    }
    assert_int_equal(dirty, 1000 * 4096);
    assert_int_equal(lists, (2000 + 6) / 7);
}

static void test_changes_see_each_other(void **state)
{
    World *world = *state;
    GError *error = NULL;
    BitmapInfo info;
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    DiskChange *change = world_begin(world);
    const char *sources[] = {"a", "b", NULL};
    must(disk_change_add(change, "b", 512, false, DURABILITY_POWER, &error), error);
    must(disk_change_merge(change, "b", sources, NULL, &error), error);
    must(disk_change_clear(change, "a", NULL, &error), error);
    assert_true(disk_change_preview(change, "b", &info));
    assert_int_equal(info.dirty_bytes, 65536);
    g_autofree char *generation = g_strdup(info.generation);
    bitmap_info_clear(&info);
    assert_true(fails_with(disk_change_add(change, "a", 512, true, DURABILITY_POWER, &error),
                           &error, STORAGE_ERROR_EXISTS));
    assert_true(fails_with(disk_change_clear(change, "nobody", NULL, &error), &error,
                           STORAGE_ERROR_NOT_FOUND));
    assert_true(
        fails_with(disk_change_remove(change, "a", "x", &error), &error, STORAGE_ERROR_STATE));
    assert_int_equal(world_dirty(world, "a"), 65536); /* nothing has happened yet */
    world_commit(world, change);
    assert_int_equal(world_dirty(world, "a"), 0);
    info = world_info(world, "b");
    assert_int_equal(info.state, BITMAP_DISABLED);
    assert_int_equal(info.dirty_bytes, 65536);
    assert_false(info.missed_writes);
    assert_string_equal(info.generation, generation);
    bitmap_info_clear(&info);
}

static void test_abort_leaves_no_trace(void **state)
{
    World *world = *state;
    GError *error = NULL;
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    for (int frozen = 0; frozen < 2; frozen++) {
        DiskChange *change = world_begin(world);
        must(disk_change_clear(change, "a", NULL, &error), error);
        must(disk_change_add(change, "b", 65536, true, DURABILITY_POWER, &error), error);
        if (frozen)
            must(disk_change_freeze(&change, 1, G_MAXINT64, &error), error);
        disk_change_finish(change, false);
        world_write(world, MiB, 4096);
        assert_int_equal(world_dirty(world, "a"), 2 * 65536);
        assert_null(disk_find_bitmap(world->disk, "b"));
    }
    DiskChange *change = world_begin(world);
    assert_null(disk_change_begin(world->disk, g_get_monotonic_time() + 1000, &error));
    assert_true(fails_with(false, &error, STORAGE_ERROR_TIMEOUT));
    disk_change_finish(change, false);
}

static void test_missed_writes(void **state)
{
    World *world = *state;
    GError *error = NULL;
    BitmapInfo info;
    world_add(world, "a", 65536);
    world_add(world, "b", 65536);
    world_write(world, 0, 4096);
    world_do(world, disk_change_disable, "a");
    info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_DISABLED);
    assert_false(info.missed_writes); /* nobody has written yet */
    bitmap_info_clear(&info);
    world_write(world, 0, 4096); /* durably dirty or under an intent: still it has to be marked */
    world_drop(world);
    world_open(world);
    info = world_info(world, "a");
    assert_true(info.missed_writes);
    assert_int_equal(info.dirty_bytes, 65536); /* exact: it did not record when nbdd died */
    bitmap_info_clear(&info);

    DiskChange *change = world_begin(world);
    const char *sources[] = {"a", NULL};
    must(disk_change_merge(change, "b", sources, NULL, &error), error);
    world_commit(world, change);
    info = world_info(world, "b");
    assert_true(info.missed_writes);
    bitmap_info_clear(&info);
    world_do(world, disk_change_enable, "a");
    info = world_info(world, "a");
    assert_true(info.missed_writes && info.recording);
    bitmap_info_clear(&info);
    world_do(world, disk_change_clear, "a");
    info = world_info(world, "a");
    assert_false(info.missed_writes);
    bitmap_info_clear(&info);
}

typedef struct {
    World *world;
    _Atomic bool stop;
} Hammer;

static void *hammer(void *data)
{
    Hammer *hammer = data;
    static const char block[4096];
    for (uint64_t i = 0; !atomic_load(&hammer->stop); i++)
        assert_int_equal(disk_pwrite(hammer->world->disk, block, sizeof block, i % 512 * 4096, 0),
                         0);
    return NULL;
}

/* However many writes are in flight, a bitmap that does not record has none of them. */
static void test_disabled_stays_as_it_is(void **state)
{
    World *world = *state;
    Hammer hammering = {.world = world};
    pthread_t thread;
    GError *error = NULL;
    world_add(world, "a", 4096);
    world_do(world, disk_change_disable, "a");
    assert_int_equal(pthread_create(&thread, NULL, hammer, &hammering), 0);
    for (int i = 0; i < 20; i++) {
        DiskChange *change = world_begin(world);
        must(disk_change_enable(change, "a", NULL, &error), error);
        must(disk_change_disable(change, "a", NULL, &error), error);
        world_commit(world, change);
        assert_int_equal(world_dirty(world, "a"), 0);
        world_do(world, disk_change_clear, "a");
        assert_int_equal(world_dirty(world, "a"), 0);
    }
    atomic_store(&hammering.stop, true);
    pthread_join(thread, NULL);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.dirty_bytes, 0);
    bitmap_info_clear(&info);
}

static void test_remove_and_add_again(void **state)
{
    World *world = *state;
    GError *error = NULL;
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    g_autoptr(Bitmap) old = disk_find_bitmap(world->disk, "a");
    DiskChange *change = world_begin(world);
    must(disk_change_remove(change, "a", NULL, &error), error);
    must(disk_change_add(change, "a", 512, true, DURABILITY_POWER, &error), error);
    world_commit(world, change);
    assert_false(bitmap_is_offered(old));
    ExtentList list;
    extent_list_init(&list, 0, 1);
    assert_int_equal(bitmap_extents(old, 0, 1, &list), -EIO);
    extent_list_clear(&list);
    assert_int_equal(world_dirty(world, "a"), 0);
    world_write(world, 0, 512);
    world_close(world);
    world_open(world);
    assert_int_equal(world_dirty(world, "a"), 512);
    world_do(world, disk_change_remove, "a");
    world_write(world, 0, 512);
    world_close(world);
    world_open(world);
    assert_null(disk_find_bitmap(world->disk, "a"));
}

static void test_growth_is_dirty_and_shrinking_invalid(void **state)
{
    World *world = *state;
    GError *error = NULL;
    world_add(world, "a", 65536);
    world_add(world, "b", 512);
    world_write(world, 0, 512);
    uint64_t grown = world->size + 10 * MiB;
    assert_int_equal(truncate(world->image, (off_t)grown), 0);
    must(disk_refresh(world->disk, &error), error);
    assert_int_equal(disk_size(world->disk), grown);
    uint64_t old_last = world->size / 65536 * 65536;
    assert_int_equal(world_dirty(world, "a"), 65536 + grown - old_last);
    world_write(world, grown - 512, 512);
    world_drop(world); /* not even cleanly */
    world_open(world);
    assert_true(world_is_dirty(world, "a", grown - 1));
    assert_true(world_is_dirty(world, "b", world->size + MiB));
    world_close(world);
    world_open(world);
    assert_true(world_is_dirty(world, "b", world->size + MiB));

    assert_int_equal(truncate(world->image, (off_t)MiB), 0);
    must(disk_refresh(world->disk, &error), error);
    assert_int_equal(disk_size(world->disk), MiB);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    assert_non_null(info.reason);
    bitmap_info_clear(&info);
    world_do(world, disk_change_clear, "a");
    info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_RECORDING);
    bitmap_info_clear(&info);
    world_write(world, 0, 512);
    assert_int_equal(world_dirty(world, "a"), 65536);
}

/* Writes to a disk of which every bitmap is invalid are on nobody's record, and its row may say
 * clean all the while: who has cleared one must not take them for somebody else's. */
static void test_cleared_after_writes_without_a_record(void **state)
{
    World *world = *state;
    for (unsigned crash = 0; crash < 2; crash++) {
        const char *name = crash ? "b" : "a";
        world_add(world, name, 65536);
        world_close(world);
        world_let_time_pass(world);
        assert_int_equal(utimensat(AT_FDCWD, world->image, NULL, 0), 0);
        world_open(world);
        BitmapInfo info = world_info(world, name);
        assert_int_equal(info.state, BITMAP_INVALID);
        bitmap_info_clear(&info);
        world_close(world);
        world_open(world);
        world_let_time_pass(world);
        world_write(world, 0, 512);
        world_do(world, disk_change_clear, name);
        if (crash)
            world_drop(world);
        else
            world_close(world);
        world_open(world);
        info = world_info(world, name);
        if (info.state == BITMAP_INVALID)
            fail_msg("after a %s: %s", crash ? "crash" : "clean stop", info.reason);
        bitmap_info_clear(&info);
    }
}

static void test_limits(void **state)
{
    World *world = *state;
    GError *error = NULL;
    DiskChange *change = world_begin(world);
    assert_true(fails_with(disk_change_add(change, "a", 1000, true, DURABILITY_POWER, &error),
                           &error, STORAGE_ERROR_INVALID));
    for (int i = 0; i < 128; i++) {
        g_autofree char *name = g_strdup_printf("b%d", i);
        must(disk_change_add(change, name, 65536, true, DURABILITY_POWER, &error), error);
    }
    assert_true(fails_with(disk_change_add(change, "a", 512, true, DURABILITY_POWER, &error),
                           &error, STORAGE_ERROR_LIMIT));
    world_commit(world, change);
    world_write(world, 0, 1);
    assert_int_equal(world_dirty(world, "b127"), 65536);
    g_autoptr(GPtrArray) list = disk_list_bitmaps(world->disk);
    assert_int_equal(list->len, 128);
    assert_string_equal(bitmap_name(list->pdata[2]), "b10");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exact_over_clean_restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_block_is_partial, setup, teardown),
        cmocka_unit_test_setup_teardown(test_extents_page, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes_see_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_leaves_no_trace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missed_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disabled_stays_as_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_and_add_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_growth_is_dirty_and_shrinking_invalid, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_cleared_after_writes_without_a_record, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
