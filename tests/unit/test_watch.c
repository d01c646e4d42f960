/* Changes behind the daemon's back: after a stop, clean or not, somebody does something; then the
 * bitmap is as good as before, or invalid and says why. */
#include "storage/disk_watch.h"
#include "storage/track_private.h"
#include "tests/unit/comes.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void copy_file(const char *from, const char *to)
{
    g_autofree char *data = NULL;
    gsize length;
    if (g_file_get_contents(from, &data, &length, NULL))
        assert_true(g_file_set_contents(to, data, (gssize)length, NULL));
    else
        g_unlink(to);
}

/* The state database and its log, to or from beside the state directory. */
static void copy_state(World *world, bool back)
{
    static const char *const names[] = {"state.db", "state.db-wal"};
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *here = g_build_filename(world->state, names[i], NULL);
        g_autofree char *there = g_build_filename(world->dir, names[i], NULL);
        copy_file(back ? there : here, back ? here : there);
    }
}

static void nothing(World *world)
{
}

static void read_it(World *world)
{
    char byte;
    int fd = open(world->image, O_RDONLY);
    assert_int_equal(pread(fd, &byte, 1, 0), 1);
    close(fd);
}

static void write_it(World *world)
{
    world_write_behind(world, 5000);
}

static void touch_it(World *world)
{
    assert_int_equal(utimensat(AT_FDCWD, world->image, NULL, 0), 0);
}

static void write_and_set_time_back(World *world)
{
    struct stat st;
    assert_int_equal(stat(world->image, &st), 0);
    world_write_behind(world, 5000);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, world->image, times, 0), 0);
}

static void change_mode(World *world)
{
    assert_int_equal(chmod(world->image, 0600), 0);
}

static void shrink(World *world)
{
    assert_int_equal(truncate(world->image, MiB), 0);
}

static void grow(World *world)
{
    assert_int_equal(truncate(world->image, (off_t)(world->size + MiB)), 0);
}

static void punch(World *world)
{
    int fd = open(world->image, O_WRONLY);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
    close(fd);
}

/* A copy in its place, with the same times. */
static void rename_over(World *world)
{
    g_autofree char *copy = g_strconcat(world->image, ".copy", NULL);
    struct stat st;
    assert_int_equal(stat(world->image, &st), 0);
    copy_file(world->image, copy);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, copy, times, 0), 0);
    assert_int_equal(rename(copy, world->image), 0);
}

static void rename_away_and_back(World *world)
{
    g_autofree char *away = g_strconcat(world->image, ".away", NULL);
    assert_int_equal(rename(world->image, away), 0);
    assert_int_equal(rename(away, world->image), 0);
}

static void copy_over(World *world)
{
    g_autofree char *data = NULL;
    gsize length;
    struct stat st;
    assert_int_equal(stat(world->image, &st), 0);
    assert_true(g_file_get_contents(world->image, &data, &length, NULL));
    int fd = open(world->image, O_WRONLY | O_TRUNC);
    assert_int_equal(pwrite(fd, data, length, 0), length);
    close(fd);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, world->image, times, 0), 0);
}

static void link_it(World *world)
{
    g_autofree char *other = g_strconcat(world->image, ".link", NULL);
    assert_int_equal(link(world->image, other), 0);
}

static void strip_mark(World *world)
{
    removexattr(world->image, "user.nbdd.mark");
}

static void restore_state(World *world)
{
    copy_state(world, true);
}

static void restore_backup(World *world)
{
    g_autofree char *copy = g_build_filename(world->dir, "backup.db", NULL);
    g_autofree char *here = g_build_filename(world->state, "state.db", NULL);
    g_autofree char *log = g_build_filename(world->state, "state.db-wal", NULL);
    g_unlink(log);
    copy_file(copy, here);
}

static void serve_elsewhere(World *world)
{
    g_autofree char *state = g_build_filename(world->dir, "elsewhere", NULL);
    World other = {.state = state, .image = world->image, .options = world->options};
    world_open(&other);
    world_put_row(&other);
    world_add(&other, "b", 65536);
    world_write(&other, MiB, 4096);
    world_close(&other);
}

typedef struct {
    const char *name;
    bool clean;         /* how it was stopped */
    bool valid;         /* whether the bitmap is still good */
    bool written_since; /* the copy of the state was made, and then there were more writes */
    void (*act)(World *world);
} Scenario;

static const Scenario scenarios[] = {
    {"nothing", true, true, false, nothing},
    {"read", true, true, false, read_it},
    {"write", true, false, false, write_it},
    {"touch", true, false, false, touch_it},
    {"write and set the time back", true, false, false, write_and_set_time_back},
    {"chmod", true, false, false, change_mode},
    {"shrink", true, false, false, shrink},
    {"grow", true, false, false, grow},
    {"punch a hole", true, false, false, punch},
    {"rename a copy over it", true, false, false, rename_over},
    {"rename away and back", true, false, false, rename_away_and_back},
    {"cp -p over it", true, false, false, copy_over},
    {"strip the mark", true, false, false, strip_mark},
    {"link", true, false, false, link_it},
    {"serve it elsewhere", true, false, false, serve_elsewhere},
    {"restore the same state", true, true, false, restore_state},
    {"restore an older state", true, false, true, restore_state},
    {"restore an older backup", true, false, true, restore_backup},
    {"the pages are lost", true, true, false, world_lose_pages},
    {"killed: nothing", false, true, false, nothing},
    {"killed: read", false, true, false, read_it},
    {"killed: write", false, false, false, write_it},
    {"killed: touch", false, false, false, touch_it},
    {"killed: write and set the time back", false, false, false, write_and_set_time_back},
    {"killed: grow", false, false, false, grow},
    {"killed: shrink", false, false, false, shrink},
    {"killed: rename a copy over it", false, false, false, rename_over},
    {"killed: cp -p over it", false, false, false, copy_over},
    {"killed: serve it elsewhere", false, false, false, serve_elsewhere},
    {"killed: restore an older state", false, false, true, restore_state},
    {"killed: restore an older backup", false, false, true, restore_backup},
    {"killed: the pages are lost", false, false, false, world_lose_pages},
};

static void play(const Scenario *scenario)
{
    GError *error = NULL;
    World *world = world_new(4 * MiB);
    g_autofree char *copy = g_build_filename(world->dir, "backup.db", NULL);
    world_close(world);
    world->options.region_size = 256 * KiB; /* so that every write here is news to the store */
    world_open(world);
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    must(store_backup(world->store, copy, &error), error);
    if (scenario->clean) {
        world_close(world);
        copy_state(world, false);
        world_open(world);
    } else {
        copy_state(world, false);
    }
    if (scenario->written_since)
        world_write(world, 2 * MiB, 4096);
    if (scenario->clean)
        world_close(world);
    else
        world_drop(world);
    if (!scenario->clean && !scenario->written_since)
        copy_state(world, false);
    world_let_time_pass(world);
    scenario->act(world);
    world_open(world);
    BitmapInfo info = world_info(world, "a");
    if ((info.state != BITMAP_INVALID) != scenario->valid)
        fail_msg("%s: %s", scenario->name, scenario->valid ? info.reason : "it was not noticed");
    if (!scenario->valid) {
        assert_non_null(info.reason);
        assert_false(info.dirty_bytes);
    } else {
        assert_true(world_is_dirty(world, "a", 0));
    }
    bitmap_info_clear(&info);
    /* A clear is a fresh start. */
    world_do(world, disk_change_clear, "a");
    world_write(world, 0, 4096);
    world_close(world);
    world_open(world);
    info = world_info(world, "a");
    if (info.state != BITMAP_RECORDING || info.dirty_bytes != 65536)
        fail_msg("%s, cleared: %s", scenario->name, info.reason);
    bitmap_info_clear(&info);
    world_free(world);
}

static void test_scenarios(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(scenarios); i++)
        play(&scenarios[i]);
}

static void test_somebody_elses_lock(void **state)
{
    GError *error = NULL;
    World *world = world_new(4 * MiB);
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    world_drop(world);
    Backend *other = backend_open(world->image, false, CACHE_WRITEBACK, &error);
    must(other, error);
    assert_null(world_try_open(world, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
    g_clear_error(&error);
    store_close(world->store);
    backend_close(other);
    world_open(world); /* it only waited: the bitmap is as good as it was */
    assert_true(world_is_dirty(world, "a", 0));
    world_free(world);
}

static void test_no_false_alarms(void **state)
{
    World *world = world_new(4 * MiB);
    world_add(world, "a", 65536);
    for (unsigned i = 0; i < 60; i++) {
        if (i % 3)
            world_write(world, i * 65536, 512);
        if (i % 5 == 0)
            disk_flush(world->disk);
        world_close(world);
        world_open(world);
        BitmapInfo info = world_info(world, "a");
        if (info.state != BITMAP_RECORDING)
            fail_msg("restart %u: %s", i, info.reason ? info.reason : "recovered");
        bitmap_info_clear(&info);
    }
    world_free(world);
}

static void *load_slowly(void *data)
{
    World *world = data;
    gint64 end = g_get_monotonic_time() + G_USEC_PER_SEC / 2;
    g_autofree char *bytes = g_malloc0(2 * MiB);
    for (uint64_t offset = 0; g_get_monotonic_time() < end; offset += 2 * MiB)
        assert_int_equal(disk_pwrite(world->disk, bytes, 2 * MiB, offset % world->size, 0), 0);
    return NULL;
}

static void *load(void *data)
{
    World *world = data;
    static _Atomic unsigned thread;
    unsigned number = thread++ % 4;
    gint64 end = g_get_monotonic_time() + G_USEC_PER_SEC / 2;
    char byte[512] = {0};
    for (uint64_t i = 0; g_get_monotonic_time() < end; i++) {
        uint64_t offset = (i * 4 + number) * 64 * KiB % world->size;
        assert_int_equal(i % 3 == 0   ? disk_zero(world->disk, offset, 8192, IO_MAY_HOLE)
                         : i % 3 == 1 ? disk_trim(world->disk, offset, 4096, 0)
                                      : disk_pwrite(world->disk, byte, 512, offset, 0),
                         0);
        if (i % 8 == 0)
            g_usleep(200); /* so that the disk is idle now and then */
    }
    return NULL;
}

static bool do_nothing(StoreTxn *txn, gpointer data, GError **error)
{
    return true;
}

/* Until the keeper has marked the file for the last time: a mark that comes behind what others
 * write gives the file a new time, and is taken for all of it. */
static void wait_for_marks(World *world)
{
    DiskTrack *track = world->disk->track;
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    bool over = false;
    while (!over) {
        assert_true(g_get_monotonic_time() < end);
        g_usleep(1000);
        track_lock(track);
        over = track->active->len == 0 && track->marked_sequence == track->sequence;
        track_unlock(track);
        /* Who has seen that to the last mark has handed the disk over to the keeper by now. */
        assert_true(store_transact(world->store, do_nothing, NULL, NULL));
        over = over && atomic_load(&world->disk->references) == 1;
    }
    world_let_time_pass(world);
}

/* Where file times tell nothing of a file that is open, nobody is noticed. */
static void require_prompt_times(World *world)
{
    WatchIdentity now;
    if (watch_identify(disk_backend(world->disk), &now, NULL) && watch_changed(&now, 0))
        return;
    world_free(world);
    skip();
}

/* Looked at all the time while it is written: nobody else does that, and then somebody does. */
static void test_others_while_it_is_written(void **state)
{
    World *world = world_new(GiB);
    require_prompt_times(world);
    world->options.region_size = 64 * KiB; /* so that there is always something to mark it with */
    world->options.checkpoint_seconds = 0;
    world->options.quiet_seconds = 0;
    world->options.max_intents = 4;
    world_close(world);
    world_open(world);
    world_add(world, "a", 512);
    GThread *threads[4];
    load_slowly(world);
    for (unsigned i = 0; i < 4; i++)
        threads[i] = g_thread_new("load", load, world);
    for (unsigned i = 0; i < 4; i++)
        g_thread_join(threads[i]);
    BitmapInfo info = world_info(world, "a");
    if (info.state != BITMAP_RECORDING)
        fail_msg("%s", info.reason);
    bitmap_info_clear(&info);
    wait_for_marks(world);
    write_it(world);
    GError *error = NULL;
    must(disk_close_clean(world->disk, &error), error);
    info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    world_free(world);
}

static bool same_stamp(Backend *backend, BackendStamp *ret_stamp)
{
    *ret_stamp = (BackendStamp){.ctime = 1};
    return true;
}

static bool is_hole(World *world, uint64_t offset)
{
    ExtentList list;
    extent_list_init(&list, 0, 1000);
    assert_int_equal(disk_extents(world->disk, 0, world->size, &list), 0);
    uint64_t at = 0;
    size_t i = 0;
    for (; at + list.items[i].length <= offset; i++)
        at += list.items[i].length;
    bool hole = list.items[i].flags != 0;
    extent_list_clear(&list);
    return hole;
}

/* What condemns the bitmaps condemns what was known of holes, should the map not have seen it. */
static void test_others_fill_a_hole(void **state)
{
    World *world = world_new(8 * MiB);
    require_prompt_times(world);
    world->options.checkpoint_seconds = 0; /* the last mark comes soon */
    world_close(world);
    world_open(world);
    world_add(world, "a", 65536);
    Backend *backend = world->disk->backend;
    const BackendOps *real = backend->ops;
    BackendOps ops = *real;
    ops.stamp = same_stamp;
    backend->ops = &ops;
    wait_for_marks(world);
    assert_true(is_hole(world, 5 * MiB));
    world_write_behind(world, 5 * MiB);
    assert_true(is_hole(world, 5 * MiB));
    disk_mark(world->disk);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    assert_false(is_hole(world, 5 * MiB));
    backend->ops = real;
    world_free(world);
}

/* A bitmap of which the file was changed before it began has nothing to do with that. */
static void test_others_before_it_began(void **state)
{
    World *world = world_new(4 * MiB);
    world_add(world, "a", 65536);
    world_write(world, 0, 4096);
    world_let_time_pass(world);
    write_it(world);
    world_drop(world);
    world_open(world);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    world_let_time_pass(world);
    world_write(world, 0, 4096); /* nothing records, so nobody keeps the time */
    GError *error = NULL;
    DiskChange *change = world_begin(world);
    must(disk_change_add(change, "b", 65536, false, DURABILITY_POWER, &error), error);
    world_commit(world, change);
    world_close(world);
    world_open(world);
    info = world_info(world, "b");
    assert_int_equal(info.state, BITMAP_DISABLED);
    bitmap_info_clear(&info);
    world_do(world, disk_change_clear, "a");
    world_write(world, MiB, 4096);
    world_close(world);
    world_open(world);
    info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_RECORDING);
    bitmap_info_clear(&info);
    world_free(world);
}

/* What cannot be played: other boots, block devices. */
static void test_judgement(void **state)
{
    World *world = world_new(4 * MiB);
    const Backend *backend = disk_backend(world->disk);
    WatchIdentity now;
    DiskPageRemains remains = {0};
    WatchRow row = {.present = true, .sequence = 5};
    int64_t last;
    GError *error = NULL;
    must(watch_identify(backend, &now, &error), error);
    row.identity = now;
    g_strlcpy(row.boot, "another boot", sizeof row.boot);

    now.ctime = watch_boot_time() - G_USEC_PER_SEC;
    g_autofree char *before = watch_judge(backend, "id", &row, &now, &remains, &last);
    assert_null(before);
    now.ctime = watch_boot_time() + 1000 * G_USEC_PER_SEC;
    g_autofree char *after = watch_judge(backend, "id", &row, &now, &remains, &last);
    assert_non_null(after);

    WatchIdentity device = {.size = MiB, .diskseq = 7, .sectors_written = 100};
    row.identity = device;
    g_autofree char *rebooted = watch_judge(backend, "id", &row, &device, &remains, &last);
    assert_null(rebooted);
    g_strlcpy(row.boot, watch_boot_id(), sizeof row.boot);
    row.clean = true;
    g_autofree char *same = watch_judge(backend, "id", &row, &device, &remains, &last);
    assert_null(same);
    device.sectors_written++;
    g_autofree char *written = watch_judge(backend, "id", &row, &device, &remains, &last);
    assert_non_null(written);
    device.sectors_written--;
    device.diskseq++;
    g_autofree char *other = watch_judge(backend, "id", &row, &device, &remains, &last);
    assert_non_null(other);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scenarios),
        cmocka_unit_test(test_somebody_elses_lock),
        cmocka_unit_test(test_no_false_alarms),
        cmocka_unit_test(test_others_while_it_is_written),
        cmocka_unit_test(test_others_fill_a_hole),
        cmocka_unit_test(test_others_before_it_began),
        cmocka_unit_test(test_judgement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
