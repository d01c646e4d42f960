/* Disks with bitmaps, through storage/disk.h alone. */
#include "storage/disk.h"
#include "tests/unit/check.h"
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MiB (UINT64_C(1) << 20)

typedef struct {
    char *dir, *image;
    Store *store;
    Disk *disk;
} World;

static bool put_row(StoreTxn *txn, gpointer data, GError **error)
{
    World *world = data;
    StoreDisk row = {.name = (char *)"d", .path = world->image};
    return store_put_disk(txn, &row, error);
}

static void must(bool ok, GError *error)
{
    if (!ok || error)
        fail_msg("%s", error ? error->message : "failed without an error");
}

static void open_world(World *world)
{
    GError *error = NULL;
    world->store = store_open(world->dir, &error);
    must(world->store, error);
    world->disk = disk_open(world->store, "d", world->image, false, CACHE_WRITEBACK, &error);
    must(world->disk, error);
}

static void close_world(World *world)
{
    GError *error = NULL;
    must(disk_close_clean(world->disk, &error), error);
    disk_unref(world->disk);
    store_close(world->store);
}

static void remove_dir(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_dir_close(dir);
    g_rmdir(path);
}

static int setup(void **state)
{
    World *world = g_new0(World, 1);
    GError *error = NULL;
    world->dir = g_dir_make_tmp("nbdd-disk-XXXXXX", NULL);
    world->image = g_build_filename(world->dir, "image", NULL);
    FILE *file = fopen(world->image, "w");
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 64 * MiB), 0);
    fclose(file);
    open_world(world);
    must(store_transact(world->store, put_row, world, &error), error);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    World *world = *state;
    close_world(world);
    remove_dir(world->dir);
    g_free(world->dir);
    g_free(world->image);
    g_free(world);
    return 0;
}

static DiskChange *begin(World *world)
{
    GError *error = NULL;
    DiskChange *change = disk_change_begin(world->disk, G_MAXINT64, &error);
    must(change, error);
    return change;
}

static bool store_change(StoreTxn *txn, gpointer data, GError **error)
{
    return disk_change_store(data, txn, error);
}

static void commit(World *world, DiskChange *change)
{
    GError *error = NULL;
    must(disk_change_freeze(&change, 1, G_MAXINT64, &error), error);
    must(store_transact(world->store, store_change, change, &error), error);
    disk_change_finish(change, true);
}

static void add(World *world, const char *name, uint32_t granularity)
{
    GError *error = NULL;
    DiskChange *change = begin(world);
    must(disk_change_add(change, name, granularity, true, DURABILITY_POWER, &error), error);
    commit(world, change);
}

static uint64_t dirty(World *world, const char *name)
{
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, name);
    assert_non_null(bitmap);
    BitmapInfo info;
    bitmap_get_info(bitmap, &info);
    uint64_t bytes = info.dirty_bytes;
    bitmap_info_clear(&info);
    return bytes;
}

static void test_write_clear_restart(void **state)
{
    World *world = *state;
    char data[4096] = {1};
    add(world, "a", 65536);
    add(world, "b", 512);
    assert_int_equal(disk_pwrite(world->disk, data, sizeof data, 3 * MiB, 0), 0);
    assert_int_equal(dirty(world, "a"), 65536);
    assert_int_equal(dirty(world, "b"), 4096);
    close_world(world);
    open_world(world);
    assert_int_equal(dirty(world, "a"), 65536);
    assert_int_equal(dirty(world, "b"), 4096);

    GError *error = NULL;
    DiskChange *change = begin(world);
    must(disk_change_clear(change, "a", NULL, &error), error);
    commit(world, change);
    assert_int_equal(dirty(world, "a"), 0);
    assert_int_equal(dirty(world, "b"), 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_clear_restart, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
