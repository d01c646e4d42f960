/* A state that is put back from a copy: what tells that it is older than the disk, where the pages
 * of the runtime directory cannot (they end with a reboot) and where counters must do. */
#include "storage/disk_watch.h"
#include "tests/unit/world.h"
#include <glib/gstdio.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/xattr.h>

/* Of a copy that was made while the disk was clean, and of which the watch's row was then changed;
 * put back at once. */
static char *reason_of_copy(const char *sql)
{
    GError *error = NULL;
    World *world = world_new(4 * MiB);
    world_add(world, "a", 65536);
    world_close(world);
    world_open(world);
    g_autofree char *copy = g_build_filename(world->dir, "backup.db", NULL);
    g_autofree char *here = g_build_filename(world->state, "state.db", NULL);
    sqlite3 *handle;
    must(store_backup(world->store, copy, &error), error);
    assert_int_equal(sqlite3_open(copy, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(handle);
    world_close(world);
    assert_int_equal(g_rename(copy, here), 0);
    world_open(world);
    BitmapInfo info = world_info(world, "a");
    char *reason = g_strdup(info.reason);
    bitmap_info_clear(&info);
    world_free(world);
    return reason;
}

/* Of a device counters tell, within the boot that they are of; the disk here is a file, so what is
 * left to be judged by them is no device any more. */
static void test_a_backup_about_a_device(void **state)
{
    g_autofree char *file = reason_of_copy("UPDATE watch SET boot = 'another'");
    assert_null(file);
    g_autofree char *same = reason_of_copy("UPDATE watch SET filesystem = ''");
    assert_non_null(strstr(same, "is a block device now"));
    g_autofree char *other = reason_of_copy("UPDATE watch SET filesystem = '', boot = 'another'");
    assert_non_null(strstr(other, "is a copy"));
}

/* What a copy of the state that was made now would say after a reboot, which takes the pages. */
static WatchRow copy_row(World *world)
{
    WatchRow row = {.present = true};
    char text[80] = "";
    GError *error = NULL;
    must(watch_identify(disk_backend(world->disk), &row.identity, &error), error);
    g_strlcpy(row.boot, "another boot", sizeof row.boot);
    assert_true(getxattr(world->image, "user.nbdd.mark", text, sizeof text - 1) > 0);
    row.sequence = g_ascii_strtoll(strchr(text, ':') + 1, NULL, 10);
    return row;
}

static bool is_condemned(World *world, const WatchRow *row)
{
    char text[80] = "";
    DiskPageRemains remains = {0};
    WatchIdentity now = row->identity;
    int64_t last;
    assert_true(getxattr(world->image, "user.nbdd.mark", text, sizeof text - 1) > 0);
    *strchr(text, ':') = 0;
    now.ctime = 0;
    g_autofree char *reason =
        watch_judge(disk_backend(world->disk), text, row, &now, &remains, &last);
    return reason != NULL;
}

/* Where it matters that the mark is there already when the first write comes. */
static void test_marks_that_do_not_wait(void **state)
{
    World *world = world_new(4 * MiB);
    world->options.checkpoint_seconds = 3600; /* no marks but those */
    world_close(world);
    world_open(world);
    world_add(world, "a", 65536);
    WatchRow row = copy_row(world);
    assert_false(is_condemned(world, &row));
    world_write(world, 0, 4096);
    world_drop(world);
    world_open(world);
    assert_true(is_condemned(world, &row)); /* by an opening after an unclean stop */
    row = copy_row(world);
    world_do(world, disk_change_remove, "a");
    assert_true(is_condemned(world, &row)); /* by the last bitmap's end */
    row = copy_row(world);
    world_add(world, "a", 65536);
    assert_true(is_condemned(world, &row)); /* by a new beginning */
    world_free(world);
}

/* Whatever others have left there, we can go on counting from it. */
static void test_fresh_numbers(void **state)
{
    static const struct {
        const char *mark;
        int64_t row;
        uint64_t page;
        int64_t least;
    } cases[] = {
        {"id:5", 0, 0, G_USEC_PER_SEC},
        {"id:5000000000000000000", 0, 0, INT64_MAX / 2 + 1},
        {"id:4000000000000000000", 0, 0, 4000000000000000001},
        {"id:9223372036854775807", 0, 0, INT64_MAX / 2 + 1},
        {"id:-9223372036854775808", 0, 0, G_USEC_PER_SEC},
        {"other:4000000000000000000", 0, 0, G_USEC_PER_SEC},
        {"no number", 0, 0, G_USEC_PER_SEC},
        {"id:5", 4000000000000000000, 0, 4000000000000000001},
        {"id:5", 0, 4000000000000000000, 4000000000000000001},
        {"id:5", 0, UINT64_MAX, INT64_MAX / 2 + 1},
    };
    World *world = world_new(MiB);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        WatchRow row = {.sequence = cases[i].row};
        DiskPageRemains remains = {.sequence = cases[i].page};
        assert_int_equal(
            setxattr(world->image, "user.nbdd.mark", cases[i].mark, strlen(cases[i].mark), 0), 0);
        int64_t fresh = watch_fresh_sequence(disk_backend(world->disk), "id", &row, &remains);
        assert_true(fresh >= cases[i].least);
        if (cases[i].least > G_USEC_PER_SEC)
            assert_int_equal(fresh, cases[i].least);
    }
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_backup_about_a_device),
        cmocka_unit_test(test_marks_that_do_not_wait),
        cmocka_unit_test(test_fresh_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
