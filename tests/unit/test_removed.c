/* A disk whose row is deleted while it is open: nobody waits for ever, and what can no longer be
 * stored is not called done. */
#include "storage/track_private.h"
#include "tests/unit/comes.h"
#include "tests/unit/world.h"
#include <pthread.h>
#include <unistd.h>

static bool delete_row(StoreTxn *txn, gpointer data, GError **error)
{
    return store_del_disk(txn, "d", error);
}

static int setup(void **state)
{
    GError *error = NULL;
    World *world = world_new(512 * MiB);
    world_add(world, "a", 65536);
    world_write(world, 0, 512);
    must(store_transact(world->store, delete_row, NULL, &error), error);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    world_free(*state);
    return 0;
}

static void *write_about(void *data)
{
    static const char block[512];
    for (uint64_t offset = 8 * MiB; offset < 512 * MiB; offset += 48 * MiB) {
        if (disk_pwrite(((World *)data)->disk, block, sizeof block, offset, 0) != 0)
            return "a write failed";
    }
    return NULL;
}

static void test_writes_go_on(void **state)
{
    World *world = *state;
    GError *error = NULL;
    pthread_t thread;
    void *problem;
    assert_int_equal(pthread_create(&thread, NULL, write_about, world), 0);
    if (!ends(thread, &problem))
        g_error("a write waits for ever"); /* and whoever tidied up would wait for it */
    assert_null(problem);
    must(disk_close_clean(world->disk, &error), error);
}

static void test_a_refresh_fails(void **state)
{
    World *world = *state;
    for (unsigned i = 0; i < 2; i++) {
        GError *error = NULL;
        assert_int_equal(truncate(world->image, (off_t)(i ? 600 : 300) * (off_t)MiB), 0);
        assert_false(disk_refresh(world->disk, &error));
        assert_non_null(error);
        g_clear_error(&error);
    }
}

static void test_a_change_fails(void **state)
{
    World *world = *state;
    GError *error = NULL;
    DiskChange *change = world_begin(world);
    must(disk_change_disable(change, "a", NULL, &error), error);
    assert_false(world_try_commit(world, change, &error));
    assert_non_null(error);
    g_clear_error(&error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_writes_go_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_refresh_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_change_fails, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
