/* The playground of world.h. */
#include "tests/unit/world.h"
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void must_at(bool ok, const GError *error, const char *file, int line)
{
    if (ok && !error)
        return;
    print_error("%s:%d: %s\n", file, line, error ? error->message : "failed without an error");
    _fail(file, line);
}

static bool put_row(StoreTxn *txn, gpointer data, GError **error)
{
    World *world = data;
    StoreDisk row = {.name = (char *)"d", .path = world->image};
    return store_put_disk(txn, &row, error);
}

void world_put_row(World *world)
{
    GError *error = NULL;
    must(store_transact(world->store, put_row, world, &error), error);
}

Disk *world_try_open(World *world, GError **error)
{
    GError *local = NULL;
    world->options.runtime_dir = world->state;
    world->store = store_open_with(world->state, &world->options, &local);
    must(world->store, local);
    world->disk = disk_open(world->store, 0, "d", world->image, false, world->cache, error);
    return world->disk;
}

void world_open(World *world)
{
    GError *error = NULL;
    must(world_try_open(world, &error), error);
}

World *world_new(uint64_t size)
{
    World *world = g_new0(World, 1);
    world->dir = g_dir_make_tmp("nbdd-unit-XXXXXX", NULL);
    world->image = g_build_filename(world->dir, "image", NULL);
    world->state = g_build_filename(world->dir, "state", NULL);
    world->size = size;
    world->options = store_default_options;
    FILE *file = fopen(world->image, "w");
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), (off_t)size), 0);
    fclose(file);
    world_open(world);
    world_put_row(world);
    return world;
}

void world_drop(World *world)
{
    disk_unref(world->disk);
    store_close(world->store);
    world->disk = NULL;
    world->store = NULL;
}

void world_close(World *world)
{
    GError *error = NULL;
    must(disk_close_clean(world->disk, &error), error);
    world_drop(world);
}

static void remove_dir(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        if (g_file_test(file, G_FILE_TEST_IS_DIR))
            remove_dir(file);
        else
            g_unlink(file);
    }
    if (dir)
        g_dir_close(dir);
    g_rmdir(path);
}

void world_free(World *world)
{
    if (world->store)
        world_drop(world);
    remove_dir(world->dir);
    g_free(world->dir);
    g_free(world->image);
    g_free(world->state);
    g_free(world);
}

DiskChange *world_begin(World *world)
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

bool world_try_commit(World *world, DiskChange *change, GError **error)
{
    bool ok = disk_change_freeze(&change, 1, g_get_monotonic_time() + 60 * G_USEC_PER_SEC, error) &&
              store_transact(world->store, store_change, change, error);
    disk_change_finish(change, ok);
    return ok;
}

void world_commit(World *world, DiskChange *change)
{
    GError *error = NULL;
    must(world_try_commit(world, change, &error), error);
}

void world_add_durable(World *world, const char *name, uint32_t granularity,
                       BitmapDurability durability)
{
    GError *error = NULL;
    DiskChange *change = world_begin(world);
    must(disk_change_add(change, name, granularity, true, durability, &error), error);
    world_commit(world, change);
}

void world_add(World *world, const char *name, uint32_t granularity)
{
    world_add_durable(world, name, granularity, DURABILITY_POWER);
}

void world_do(World *world, WorldOperation operation, const char *name)
{
    GError *error = NULL;
    DiskChange *change = world_begin(world);
    must(operation(change, name, NULL, &error), error);
    world_commit(world, change);
}

void world_write(World *world, uint64_t offset, uint64_t length)
{
    g_autofree char *data = g_malloc(length);
    memset(data, 0x5a, length);
    assert_int_equal(disk_pwrite(world->disk, data, length, offset, 0), 0);
}

void world_write_behind(World *world, off_t offset)
{
    int fd = open(world->image, O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, offset), 1);
    close(fd);
}

void world_lose_pages(World *world)
{
    GDir *dir = g_dir_open(world->state, 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(world->state, name, NULL);
        if (g_str_has_prefix(name, "nbdd-"))
            g_unlink(file);
    }
    g_dir_close(dir);
}

void world_let_time_pass(World *world)
{
    g_autofree char *probe = g_build_filename(world->dir, "probe", NULL);
    struct timespec now;
    struct stat st;
    clock_gettime(CLOCK_REALTIME, &now);
    do {
        assert_true(g_file_set_contents(probe, "", 0, NULL));
        assert_int_equal(stat(probe, &st), 0);
        g_usleep(1000);
    } while (st.st_ctim.tv_sec < now.tv_sec ||
             (st.st_ctim.tv_sec == now.tv_sec && st.st_ctim.tv_nsec <= now.tv_nsec));
    g_unlink(probe);
}

BitmapInfo world_info(World *world, const char *name)
{
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, name);
    BitmapInfo info;
    assert_non_null(bitmap);
    bitmap_get_info(bitmap, &info);
    return info;
}

uint64_t world_dirty(World *world, const char *name)
{
    BitmapInfo info = world_info(world, name);
    uint64_t bytes = info.dirty_bytes;
    bitmap_info_clear(&info);
    return bytes;
}

bool world_is_dirty(World *world, const char *name, uint64_t offset)
{
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(world->disk, name);
    ExtentList list;
    assert_non_null(bitmap);
    extent_list_init(&list, offset, 1);
    assert_int_equal(bitmap_extents(bitmap, offset, 1, &list), 0);
    bool dirty = list.items[0].flags & EXTENT_DIRTY;
    extent_list_clear(&list);
    return dirty;
}
