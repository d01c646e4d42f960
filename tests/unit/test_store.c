/* The store: configuration, migrations, damage, copies, and disks that fail under it. */
#include "storage/store_private.h"
#include "tests/unit/comes.h"
#include "tests/unit/sick_vfs.h"
#include "tests/unit/state_1.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

static char *make_state(World *world, const char *sql)
{
    char *path = g_build_filename(world->state, "state.db", NULL);
    sqlite3 *handle;
    world_close(world);
    g_unlink(path);
    assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(handle);
    return path;
}

static void check_state_1(StoreConfig *config)
{
    assert_int_equal(config->disks->len, 2);
    StoreDisk *disk = config->disks->pdata[1];
    assert_string_equal(disk->name, "vm1");
    assert_string_equal(disk->path, "/srv/vm1.img");
    assert_int_equal(disk->cache, 1);
    disk = config->disks->pdata[0];
    assert_true(disk->read_only && disk->implicit);
    assert_int_equal(config->exports->len, 2);
    StoreExport *export = config->exports->pdata[0];
    assert_string_equal(export->name, "open");
    assert_null(export->allow);
    assert_null(export->bitmaps);
    assert_int_equal(export->on_busy + export->iops + export->bandwidth, 0);
    export = config->exports->pdata[1];
    assert_string_equal(export->disk, "vm1");
    assert_string_equal(export->allow[1], "!ip:10.0.0.0/8");
    assert_string_equal(export->bitmaps[0], "b0");
    assert_true(export->tls_required);
    StoreListener *listener = config->listeners->pdata[0];
    assert_string_equal(listener->credential, "cred");
}

static void test_migrates_schema_1(void **state)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    g_free(make_state(world, state_1));
    Store *store = store_open(world->state, &error);
    must(store, error);
    g_autoptr(StoreConfig) config = store_load_config(store, &error);
    must(config, error);
    check_state_1(config);
    /* Not the file it was about, and it says so; the bitmaps are there. */
    world->store = store;
    world->disk = disk_open(store, 0, "vm1", world->image, false, CACHE_WRITEBACK, &error);
    must(world->disk, error);
    BitmapInfo info = world_info(world, "b1");
    assert_int_equal(info.state, BITMAP_INVALID);
    assert_int_equal(info.granularity, 512);
    assert_true(info.missed_writes);
    bitmap_info_clear(&info);
    world_free(world);
}

static void test_refuses_newer_schema(void **state)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    g_free(make_state(world, "PRAGMA application_id=1851941988;PRAGMA user_version=999"));
    assert_null(store_open(world->state, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_STATE));
    g_clear_error(&error);
    world_free(world);
}

static void test_second_store_is_refused(void **state)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    assert_null(store_open(world->state, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
    g_autofree char *pid = g_strdup_printf("process %d", (int)getpid());
    assert_non_null(strstr(error->message, pid));
    g_clear_error(&error);
    world_free(world);
}

static bool put_configuration(StoreTxn *txn, gpointer data, GError **error)
{
    char *allow[] = {(char *)"unix:0", NULL}, *none[] = {NULL};
    StoreExport one = {.name = (char *)"e1",
                       .disk = (char *)"d",
                       .allow = allow,
                       .bitmaps = none,
                       .on_busy = 2,
                       .max_clients_per_identity = 3,
                       .iops = 4,
                       .iops_burst = 5,
                       .bandwidth = UINT64_C(6) << 40,
                       .bandwidth_burst = 7};
    StoreListener listener = {.name = (char *)"l", .address = (char *)"unix:/run/l"};
    return store_put_export(txn, &one, error) && store_put_export(txn, &one, error) &&
           store_put_listener(txn, &listener, error);
}

static bool del_disk(StoreTxn *txn, gpointer data, GError **error)
{
    return store_del_disk(txn, data, error);
}

static void test_configuration(void **state)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    must(store_transact(world->store, put_configuration, NULL, &error), error);
    world_close(world);
    world_open(world);
    g_autoptr(StoreConfig) config = store_load_config(world->store, &error);
    must(config, error);
    StoreExport *export = config->exports->pdata[0];
    assert_int_equal(config->exports->len, 1);
    assert_string_equal(export->allow[0], "unix:0");
    assert_null(export->allow[1]);
    assert_non_null(export->bitmaps);
    assert_null(export->bitmaps[0]);
    assert_int_equal(export->on_busy, 2);
    assert_int_equal(export->max_clients_per_identity, 3);
    assert_int_equal(export->iops, 4);
    assert_int_equal(export->iops_burst, 5);
    assert_int_equal(export->bandwidth, UINT64_C(6) << 40);
    assert_int_equal(export->bandwidth_burst, 7);
    assert_false(store_transact(world->store, del_disk, (gpointer) "x", &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND));
    g_clear_error(&error);
    /* A disk with an export stays: the transaction as a whole fails, at its end. */
    assert_false(store_transact(world->store, del_disk, (gpointer) "d", &error));
    g_clear_error(&error);
    world_add(world, "a", 512);
    world_free(world);
}

static int64_t root_page(const char *path, const char *table)
{
    sqlite3 *handle;
    sqlite3_stmt *statement;
    assert_int_equal(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(handle,
                                        "SELECT rootpage FROM sqlite_schema WHERE name = ?1", -1,
                                        &statement, NULL),
                     SQLITE_OK);
    sqlite3_bind_text(statement, 1, table, -1, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t page = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(handle);
    return page;
}

static void test_damage(void **state)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    must(store_transact(world->store, put_configuration, NULL, &error), error);
    world_add(world, "a", 512);
    world_write(world, 0, 4096);
    world_close(world);
    g_autofree char *path = g_build_filename(world->state, "state.db", NULL);
    g_autofree char *data = NULL;
    gsize length;
    assert_true(g_file_get_contents(path, &data, &length, NULL));
    memset(data + (root_page(path, "bits") - 1) * 4096, 0xa5, 4096);
    assert_true(g_file_set_contents(path, data, (gssize)length, NULL));
    world_open(world);
    assert_non_null(store_notice(world->store));
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    world_close(world);

    /* All of it: nothing is left, and it comes up all the same. */
    memset(data, 0xa5, length);
    assert_true(g_file_set_contents(path, data, (gssize)length, NULL));
    Store *store = store_open(world->state, &error);
    must(store, error);
    assert_non_null(store_notice(store));
    store_close(store);
    store = store_open(world->state, &error);
    must(store, error);
    assert_null(store_notice(store));
    store_close(store);
    world_free(world);
}

static void test_backup(void **state)
{
    GError *error = NULL;
    World *world = world_new(MiB);
    g_autofree char *copy = g_build_filename(world->dir, "copy", NULL);
    must(store_backup(world->store, copy, &error), error);
    assert_false(store_backup(world->store, copy, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_EXISTS));
    g_clear_error(&error);
    world_free(world);
}

/* --- the state disk fails --- */

static World *sick_world(StoreFailurePolicy policy)
{
    World *world = world_new(16 * MiB);
    world_close(world);
    world->options.region_size = MiB;
    world->options.checkpoint_seconds = 3600; /* no sync that is to fail is the background's */
    world->options.failure_seconds = 0;
    world->options.on_failure = policy;
    world_open(world);
    world_add(world, "a", 65536);
    world_add(world, "b", 4096);
    return world;
}

static int try_write(World *world, uint64_t offset)
{
    static const char data[4096] = {1};
    return disk_pwrite(world->disk, data, sizeof data, offset, 0);
}

static void fail_twice(Store *store, gpointer gave_up)
{
    store_note_outcome(store, false);
    g_usleep(50000);
    *(bool *)gave_up = store_note_outcome(store, false);
    store_note_outcome(store, true);
}

/* 4295 seconds are more microseconds than 32 bits hold. */
static void test_much_patience_with_the_state_disk(void **state)
{
    World *world = world_new(MiB);
    bool gave_up = true;
    world_close(world);
    world->options.failure_seconds = 4295;
    world_open(world);
    store_call(world->store, fail_twice, &gave_up);
    assert_false(gave_up);
    world_free(world);
}

static void test_full_state_disk_refuses(void **state)
{
    World *world = sick_world(STORE_FAILURE_REFUSE);
    world_write(world, 0, 4096);
    atomic_store(&sick_writes, -1);
    assert_int_equal(try_write(world, 0), 0);    /* on record already */
    assert_int_equal(try_write(world, 4096), 0); /* under the same intent */
    assert_int_equal(try_write(world, 5 * MiB), -EIO);
    assert_int_equal(try_write(world, 6 * MiB), -EIO);
    assert_int_equal(try_write(world, 4096), 0);
    atomic_store(&sick_writes, 0);
    int rc = -EIO;
    for (unsigned i = 0; rc == -EIO && i < 600; i++) {
        g_usleep(50000);
        rc = try_write(world, 7 * MiB);
    }
    assert_int_equal(rc, 0); /* room again: it has recovered by itself */
    world_drop(world);
    world_open(world);
    assert_true(world_is_dirty(world, "b", 4096));
    assert_true(world_is_dirty(world, "a", 7 * MiB));
    world_free(world);
}

static void test_full_state_disk_invalidates(void **state)
{
    World *world = sick_world(STORE_FAILURE_INVALIDATE);
    world_write(world, 0, 4096);
    atomic_store(&sick_writes, -1);
    assert_int_equal(try_write(world, 5 * MiB), 0);
    BitmapInfo info = world_info(world, "a");
    assert_int_equal(info.state, BITMAP_INVALID);
    bitmap_info_clear(&info);
    world_drop(world); /* and the database never heard of it */
    atomic_store(&sick_writes, 0);
    world_open(world);
    info = world_info(world, "b");
    assert_int_equal(info.state, BITMAP_INVALID);
    assert_non_null(info.reason);
    bitmap_info_clear(&info);
    world_do(world, disk_change_clear, "a");
    world_write(world, MiB, 4096);
    world_close(world);
    world_open(world);
    assert_int_equal(world_dirty(world, "a"), 65536);
    world_free(world);
}

/* The frames of a COMMIT that failed are in the log: after a crash it may have happened. */
static void test_commit_in_doubt(void **state)
{
    GError *error = NULL;
    World *world = sick_world(STORE_FAILURE_REFUSE);
    for (uint64_t i = 0; i < 16; i++)
        world_write(world, i * MiB, 4096);
    must(disk_checkpoint(world->disk, &error), error);
    must(disk_checkpoint(world->disk, &error), error); /* now all of it is stored, no intents */
    DiskChange *change = world_begin(world);
    must(disk_change_clear(change, "a", NULL, &error), error);
    atomic_store(&sick_syncs, -1);
    assert_false(world_try_commit(world, change, &error));
    g_clear_error(&error);
    /* Stored as dirty, or not any more: nobody knows, so it cannot be written. */
    assert_int_equal(try_write(world, 3 * MiB), -EIO);
    world_drop(world);
    atomic_store(&sick_syncs, 0);
    world_open(world);
    assert_true(world_is_dirty(world, "b", 3 * MiB));

    /* The same, and the daemon lives to rebuild the database: the clear has not happened. */
    world_do(world, disk_change_clear, "b");
    for (uint64_t i = 0; i < 16; i++)
        world_write(world, i * MiB, 4096);
    change = world_begin(world);
    must(disk_change_clear(change, "b", NULL, &error), error);
    atomic_store(&sick_syncs, 1);
    assert_false(world_try_commit(world, change, &error));
    g_clear_error(&error);
    int rc = -EIO;
    for (unsigned i = 0; rc == -EIO && i < 600; i++) {
        g_usleep(50000);
        rc = try_write(world, 3 * MiB);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(world_dirty(world, "b"), 16 * 4096);
    world_drop(world);
    world_open(world);
    assert_true(world_is_dirty(world, "b", 3 * MiB) && world_is_dirty(world, "b", 9 * MiB));
    world_free(world);
}

/* One call of SQLite's after the other fails, once: no crash, and nothing written is clean. */
static void test_every_call_fails_once(void **state)
{
    GError *error = NULL;
    for (long call = 0; call < 40; call++) {
        World *world = sick_world(STORE_FAILURE_REFUSE);
        int rc[8];
        atomic_store(&sick_calls, 0);
        atomic_store(&sick_call, call);
        for (unsigned i = 0; i < G_N_ELEMENTS(rc); i++) {
            rc[i] = try_write(world, i * MiB);
            if (i % 3 == 2)
                disk_checkpoint(world->disk, NULL);
        }
        bool stored = disk_close_clean(world->disk, &error);
        g_clear_error(&error);
        world_drop(world);
        atomic_store(&sick_call, -1);
        world_open(world);
        for (unsigned i = 0; i < G_N_ELEMENTS(rc); i++) {
            if (rc[i] == 0 && !world_is_dirty(world, "a", i * MiB))
                fail_msg("call %ld: write %u is clean (%s)", call, i,
                         stored ? "closed" : "not closed");
        }
        world_free(world);
    }
}

#define TOGETHER 6

typedef struct {
    World *world;
    unsigned number;
    bool ok;
    GError *error;
} Member;

/* The third makes a row and fails. */
static bool put_numbered(StoreTxn *txn, gpointer data, GError **error)
{
    Member *member = data;
    g_autofree char *name = g_strdup_printf("disk-%u", member->number);
    StoreDisk row = {.name = name, .path = name};
    if (!store_put_disk(txn, &row, error))
        return false;
    if (member->number != 2)
        return true;
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE, "as it was told");
    return false;
}

static gpointer join_in(gpointer data)
{
    Member *member = data;
    member->ok =
        store_transact_together(member->world->store, put_numbered, member, &member->error);
    return NULL;
}

static sem_t held_up, all_wait;

/* Keeps the store thread busy until all of them wait for it. */
static void hold_up(Store *store, gpointer data)
{
    sem_post(&held_up);
    comes(&all_wait);
}

static gpointer hold_up_thread(gpointer data)
{
    store_call(data, hold_up, NULL);
    return NULL;
}

static StoreRequest **end_of_queue(Store *store)
{
    pthread_mutex_lock(&store->mutex);
    StoreRequest **end = store->last;
    pthread_mutex_unlock(&store->mutex);
    return end;
}

/* Answers when it waits for the store thread. */
static GThread *start_member(Member *member)
{
    Store *store = member->world->store;
    StoreRequest **before = end_of_queue(store);
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    GThread *thread = g_thread_new("member", join_in, member);
    while (end_of_queue(store) == before && g_get_monotonic_time() < end)
        g_usleep(1000);
    return thread;
}

static void test_transactions_together(void **state)
{
    World *world = world_new(MiB);
    Member members[TOGETHER];
    GThread *threads[TOGETHER + 1];
    StoreStats before, after;
    GError *error = NULL;
    sem_init(&held_up, 0, 0);
    sem_init(&all_wait, 0, 0);
    store_get_stats(world->store, &before);
    threads[TOGETHER] = g_thread_new("hold", hold_up_thread, world->store);
    assert_true(comes(&held_up));
    for (unsigned i = 0; i < TOGETHER; i++) {
        members[i] = (Member){world, i, false, NULL};
        threads[i] = start_member(&members[i]);
    }
    sem_post(&all_wait);
    for (unsigned i = 0; i <= TOGETHER; i++)
        g_thread_join(threads[i]);
    store_get_stats(world->store, &after);
    assert_int_equal(after.commits, before.commits + 1);
    for (unsigned i = 0; i < TOGETHER; i++) {
        assert_int_equal(members[i].ok, i != 2);
        assert_int_equal(members[i].error == NULL, i != 2);
    }
    g_clear_error(&members[2].error);
    g_autoptr(StoreConfig) config = store_load_config(world->store, &error);
    must(config, error);
    assert_int_equal(config->disks->len, 1 + TOGETHER - 1); /* and the world's own */
    world_free(world);
}

/* The COMMIT that they share fails for all of them. */
static void test_transactions_together_fail_together(void **state)
{
    World *world = world_new(MiB);
    Member member = {world, 7, false, NULL};
    atomic_store(&sick_writes, 1);
    join_in(&member);
    atomic_store(&sick_writes, 0);
    assert_false(member.ok);
    assert_non_null(member.error);
    g_clear_error(&member.error);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_migrates_schema_1),
        cmocka_unit_test(test_refuses_newer_schema),
        cmocka_unit_test(test_second_store_is_refused),
        cmocka_unit_test(test_configuration),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_backup),
        cmocka_unit_test(test_full_state_disk_refuses),
        cmocka_unit_test(test_full_state_disk_invalidates),
        cmocka_unit_test(test_much_patience_with_the_state_disk),
        cmocka_unit_test(test_commit_in_doubt),
        cmocka_unit_test(test_every_call_fails_once),
        cmocka_unit_test(test_transactions_together),
        cmocka_unit_test(test_transactions_together_fail_together),
    };
    sick_vfs_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
