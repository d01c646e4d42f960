/* A state database that fails, and what is made of what a crash left. */
#include "storage/disk_private.h"
#include "storage/store_invalid.h"
#include "tests/crash/schedules/schedules.h"
#include "tests/crash/schedules/stage.h"
#include "tests/unit/sick_vfs.h"
#include <errno.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int try_write(World *world, uint64_t offset)
{
    static const char data[4096] = {0x55};
    return disk_pwrite(world->disk, data, sizeof data, offset, 0);
}

/* The frames that delete an intent are in the log, and their COMMIT has failed: they may be
 * replayed. Whoever writes under that intent now, and is killed, is not on record. */
static void write_under_a_doubtful_intent(void)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    atomic_store(&sick_syncs, -1);
    assert_false(disk_checkpoint(world->disk, NULL));
    int rc = try_write(world, 8192);
    world_drop(world);
    atomic_store(&sick_syncs, 0);
    world_open(world);
    must_be_dirty(world, "a", 0);
    if (rc == 0)
        must_be_dirty(world, "a", 8192);
    stage_close(world);
}

void a_doubtful_intent_does_not_count(void **state)
{
    write_under_a_doubtful_intent();
}

void a_failed_commit_is_not_undone(void **state)
{
    write_under_a_doubtful_intent();
}

/* An intent whose COMMIT failed; the next one takes its place in the log. */
void a_failed_commit_is_not_done(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    atomic_store(&sick_writes, 1);
    int rc = try_write(world, 5 * MiB);
    int next = try_write(world, 9 * MiB);
    world_drop(world);
    atomic_store(&sick_writes, 0);
    world_open(world);
    if (rc == 0)
        must_be_dirty(world, "a", 5 * MiB);
    if (next == 0)
        must_be_dirty(world, "a", 9 * MiB);
    stage_close(world);
}

void every_intent_is_recovered(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    for (uint64_t offset = 0; offset < world->size; offset += 2 * MiB)
        world_write(world, offset, 4096);
    stage_crash(world);
    for (uint64_t offset = 0; offset < world->size; offset += 2 * MiB)
        must_be_dirty(world, "a", offset);
    stage_close(world);
}

void every_sibling_is_recovered(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_add(world, "b", 512);
    world_add(world, "c", 65536);
    world_write(world, MiB, 4096);
    stage_crash(world);
    must_be_dirty(world, "a", MiB);
    must_be_dirty(world, "b", MiB);
    must_be_dirty(world, "c", MiB);
    stage_close(world);
}

typedef struct {
    char *path, *data;
    gsize length;
} Kept;

static Kept keep(World *world, const char *name)
{
    Kept kept = {.path = g_build_filename(world->state, name, NULL)};
    assert_true(g_file_get_contents(kept.path, &kept.data, &kept.length, NULL));
    return kept;
}

static void restore(Kept *kept)
{
    assert_true(g_file_set_contents(kept->path, kept->data, (gssize)kept->length, NULL));
    g_free(kept->path);
    g_free(kept->data);
}

/* As the next boot finds it: the page is gone, and the file older than the boot. */
static void reboot(World *world)
{
    sqlite3 *handle = NULL;
    g_autofree char *path = g_build_filename(world->state, "state.db", NULL);
    assert_int_equal(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, "UPDATE watch SET boot = 'before'", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(handle);
    GDir *dir = g_dir_open(world->state, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir));) {
        g_autofree char *file = g_build_filename(world->state, name, NULL);
        if (g_str_has_prefix(name, "nbdd-"))
            unlink(file);
    }
    g_dir_close(dir);
    stage_watch_image(world);
    atomic_store(&stage_times_before_boot, true);
}

/* Of the database's log is left what was synced of it. */
void an_intent_outlives_the_power(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    Kept database = keep(world, "state.db"), log = keep(world, "state.db-wal");
    g_autofree char *synced = g_build_filename(world->dir, "synced", NULL);
    sick_keep_synced = synced;
    world_write(world, 5 * MiB, 4096);
    sick_keep_synced = NULL;
    if (g_file_test(synced, G_FILE_TEST_EXISTS)) {
        g_free(log.data);
        assert_true(g_file_get_contents(synced, &log.data, &log.length, NULL));
    }
    world_drop(world); /* which tidies up what a power cut leaves */
    restore(&database);
    restore(&log);
    reboot(world);
    world_open(world);
    atomic_store(&stage_times_before_boot, false);
    must_be_dirty(world, "a", 5 * MiB);
    stage_close(world);
}

static World *open_to_give_up(void)
{
    World *world = stage_open();
    world_close(world);
    world->options.on_failure = STORE_FAILURE_INVALIDATE;
    world_open(world);
    stage_watch_image(world);
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    /* The file's times would give it away as well, now and then. */
    atomic_store(&stage_times_stand_still, true);
    atomic_store(&sick_writes, -1); /* the state disk is full */
    return world;
}

/* What is not recorded may be missing in a bitmap that says that it is invalid. */
static void check_given_up(World *world, int rc)
{
    world_drop(world);
    atomic_store(&sick_writes, 0);
    world_open(world);
    atomic_store(&stage_times_stand_still, false);
    BitmapInfo info = world_info(world, "a");
    if (rc == 0 && info.state != BITMAP_INVALID)
        must_be_dirty(world, "a", 5 * MiB);
    bitmap_info_clear(&info);
    stage_close(world);
}

void given_up_bitmaps_stay_invalid(void **state)
{
    World *world = open_to_give_up();
    int rc = try_write(world, 5 * MiB);
    assert_int_equal(rc, 0);
    check_given_up(world, rc);
}

void what_cannot_be_given_up_is_not_written(void **state)
{
    World *world = open_to_give_up();
    atomic_store(&stage_invalid_file_fails, true);
    int rc = try_write(world, 5 * MiB);
    atomic_store(&stage_invalid_file_fails, false);
    check_given_up(world, rc);
}

/* A change whose COMMIT has failed, and will while it is tried again. */
static void try_in_doubt(World *world, DiskChange *change, bool ok)
{
    stage_watch_image(world);
    atomic_store(&sick_syncs, -1);
    assert_true(ok);
    assert_false(world_try_commit(world, change, NULL));
}

static void add_in_doubt(World *world)
{
    world_put_row(world); /* a log in which nothing is stored would be deleted with what is not */
    DiskChange *change = world_begin(world);
    bool ok = disk_change_add(change, "a", 4096, true, DURABILITY_POWER, NULL);
    try_in_doubt(world, change, ok);
}

static void clear_in_doubt(World *world)
{
    DiskChange *change = world_begin(world);
    bool ok = disk_change_clear(change, "a", NULL, NULL);
    try_in_doubt(world, change, ok);
}

/* The power fails, and the log has it that the change happened: so "a" is new, and begins before
 * the write at 8192 that had the answer rc. */
static void be_replayed(World *world, int rc, const char *generation)
{
    world_drop(world);
    atomic_store(&sick_syncs, 0);
    atomic_store(&stage_invalid_file_fails, false);
    reboot(world);
    world_open(world);
    atomic_store(&stage_times_before_boot, false);
    BitmapInfo info = world_info(world, "a");
    if (generation)
        assert_string_not_equal(info.generation, generation);
    if (rc == 0 && info.state != BITMAP_INVALID)
        must_be_dirty(world, "a", 8192);
    bitmap_info_clear(&info);
    stage_close(world);
}

static void add_in_vain(World *world, void *data)
{
    DiskChange *change = disk_change_begin(world->disk, G_MAXINT64, NULL);
    if (change == NULL || !disk_change_add(change, "a", 4096, true, DURABILITY_POWER, NULL) ||
        world_try_commit(world, change, NULL))
        g_error("a change was stored in a database that is broken");
}

/* Nobody watches a disk without a good bitmap: its writes are not to suffer from the attempt, nor
 * from the next one. */
void a_bitmap_added_in_doubt_is_not_clean(void **state)
{
    World *world = stage_open();
    add_in_doubt(world);
    int rc = try_write(world, 8192);
    assert_int_equal(rc, 0);
    Actor again;
    stage_stop("synced", 1);
    actor_start(&again, world, add_in_vain, NULL);
    assert_true(stage_reached("synced"));
    bool waits = disk_write_begin(world->disk, 5 * MiB, 4096, IO_NOWAIT) != 0;
    if (!waits)
        disk_write_end(world->disk);
    stage_go("synced");
    actor_end(&again);
    assert_false(waits);
    be_replayed(world, rc, NULL);
}

void an_invalid_bitmap_cleared_in_doubt_is_not_clean(void **state)
{
    GError *error = NULL;
    World *world = stage_open();
    world_add(world, "a", 4096);
    BitmapInfo info = world_info(world, "a");
    must(store_invalid_put(world->store->invalid, info.generation, "a test", &error), error);
    world_close(world);
    world_open(world);
    clear_in_doubt(world);
    int rc = try_write(world, 8192);
    assert_int_equal(rc, 0);
    be_replayed(world, rc, info.generation);
    bitmap_info_clear(&info);
}

/* Writes that waited, or were refused for a while, and then all is as it was. */
static void recover_from_a_doubt(uint32_t failure_seconds)
{
    World *world = stage_open();
    world_close(world);
    world->options.failure_seconds = failure_seconds;
    world_open(world);
    atomic_store(&stage_invalid_file_fails, true);
    add_in_doubt(world);
    if (failure_seconds == 0)
        assert_int_equal(try_write(world, 8192), -EIO);
    atomic_store(&sick_syncs, 0);
    int rc = try_write(world, 8192);
    for (unsigned i = 0; rc == -EIO && failure_seconds == 0 && i < 1200; i++) {
        g_usleep(50000);
        rc = try_write(world, 8192);
    }
    assert_int_equal(rc, 0);
    atomic_store(&stage_invalid_file_fails, false);
    world_add(world, "a", 4096);
    world_write(world, 5 * MiB, 4096);
    world_close(world);
    world_open(world);
    assert_int_equal(world_dirty(world, "a"), 4096);
    stage_close(world);
}

/* Even that could not be made durable: writes wait until the doubt is over. */
void writes_wait_for_the_end_of_a_doubt(void **state)
{
    World *world = stage_open();
    atomic_store(&stage_invalid_file_fails, true);
    add_in_doubt(world);
    be_replayed(world, try_write(world, 8192), NULL);
    recover_from_a_doubt(0);
    recover_from_a_doubt(3600);
}

/* A good bitmap is given up, and with it what a clear in doubt may have made of it. */
void what_was_cleared_in_doubt_is_given_up(void **state)
{
    World *world = stage_open();
    world_close(world);
    world->options.on_failure = STORE_FAILURE_INVALIDATE;
    world_open(world);
    world_add(world, "a", 4096);
    BitmapInfo info = world_info(world, "a");
    clear_in_doubt(world);
    int rc = try_write(world, 8192);
    assert_int_equal(rc, 0);
    be_replayed(world, rc, info.generation);
    bitmap_info_clear(&info);
}

/* A power cut takes back the times of a file as well: they are no proof that it is as it was. */
void the_clean_flag_goes_first(void **state)
{
    World *world = stage_open();
    stage_watch_image(world);
    world_add(world, "a", 4096);
    world_close(world);
    world_open(world);
    atomic_store(&stage_times_stand_still, true);
    world_write(world, 5 * MiB, 4096);
    world_drop(world);
    world_open(world);
    atomic_store(&stage_times_stand_still, false);
    must_be_dirty(world, "a", 5 * MiB);
    stage_close(world);
}

/* Holds what a process that died may leave behind: its open file, with a write on its way. */
static void linger(int image, int ready, int go)
{
    char byte;
    for (int fd = STDERR_FILENO + 1; fd < 1000; fd++) {
        if (fd != image && fd != ready && fd != go)
            close(fd);
    }
    if (write(ready, "x", 1) == 1 && read(go, &byte, 1) == 1)
        _exit(pwrite(image, "late", 4, 5 * MiB) == 4 ? 0 : 1);
    _exit(1);
}

static void must_be_recovered_after(World *world, pid_t lingering, int go)
{
    GError *error = NULL;
    Disk *early = world_try_open(world, &error);
    if (early)
        world_do(world, disk_change_clear, "a"); /* a starting point, before the write lands */
    else
        assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
    g_clear_error(&error);
    assert_int_equal(write(go, "x", 1), 1);
    int status;
    assert_int_equal(waitpid(lingering, &status, 0), lingering);
    assert_int_equal(status, 0);
    if (early == NULL) {
        store_close(world->store);
        world_open(world);
    }
    must_be_dirty(world, "a", 5 * MiB);
}

void a_late_write_holds_the_lock(void **state)
{
    World *world = stage_open();
    int go[2], ready[2];
    char byte;
    world_add(world, "a", 4096);
    /* Recorded, inside the gate, and on its way: so it is found by who comes after. */
    assert_int_equal(disk_write_begin(world->disk, 5 * MiB, 4096, 0), 0);
    assert_int_equal(pipe(go) | pipe(ready), 0);
    pid_t lingering = fork();
    if (lingering == 0)
        linger(disk_backend(world->disk)->fd, ready[1], go[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    world_drop(world);
    must_be_recovered_after(world, lingering, go[1]);
    for (unsigned i = 0; i < 2; i++) {
        close(go[i]);
        close(ready[i]);
    }
    stage_close(world);
}
