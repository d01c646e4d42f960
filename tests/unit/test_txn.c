/* Transactions: what is staged is seen by them alone, and undone whole; rules; claims. */
#include "tests/unit/registry_world.h"

/* Set: the next transaction of the store is rolled back after its function has run. */
static bool store_fails;

bool __real_store_transact(Store *store, StoreFunction function, gpointer data, GError **error);
bool __wrap_store_transact(Store *store, StoreFunction function, gpointer data, GError **error);

typedef struct {
    StoreFunction function;
    gpointer data;
} Failing;

static bool run_and_fail(StoreTxn *txn, gpointer data, GError **error)
{
    Failing *failing = data;
    if (failing->function(txn, failing->data, error))
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_IO, "the disk is full");
    return false;
}

bool __wrap_store_transact(Store *store, StoreFunction function, gpointer data, GError **error)
{
    if (!store_fails)
        return __real_store_transact(store, function, data, error);
    store_fails = false;
    Failing failing = {function, data};
    return __real_store_transact(store, run_and_fail, &failing, error);
}

static void check_all(RegistryWorld *world, const char *expected)
{
    g_autofree char *rows = registry_world_rows(world), *live = registry_world_live(world);
    assert_string_equal(live, expected);
    assert_string_equal(rows, expected);
}

/* Everything a transaction can do, staged. */
static Txn *stage_everything(RegistryWorld *world, const char *path)
{
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    assert_true(txn_add_disk(txn, "new", path, false, CACHE_WRITEBACK, false, &error));
    DiskChange *change = txn_change_disk(txn, "new", NULL, &error);
    assert_non_null(change);
    assert_true(disk_change_add(change, "b0", 65536, true, DURABILITY_POWER, &error));
    g_autoptr(ExportConfig) added = export_config_new("new-export", "new");
    assert_true(txn_add_export(txn, added, &error));
    g_autoptr(ExportConfig) changed = export_config_copy(txn_find_export(txn, "kept"));
    changed->description = g_strdup("changed");
    assert_true(txn_set_export(txn, changed, false, &error));
    assert_true(txn_remove_export(txn, "leaving", REMOVE_SAFE, &error));
    return txn;
}

static RegistryWorld *furnished_world(void)
{
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "kept", "d", false, SHARING_EXCLUSIVE);
    registry_world_add_export(world, "leaving", "d", true, SHARING_EXCLUSIVE);
    check_all(world, "d:d e:kept e:leaving");
    return world;
}

static void check_untouched(RegistryWorld *world)
{
    check_all(world, "d:d e:kept e:leaving");
    Export *kept = registry_find_export(world->registry, "kept");
    assert_null(kept->config->description);
    Export *leaving = registry_find_export(world->registry, "leaving");
    assert_false(leaving->removing);
    FakeClient *client = fake_client_new(world, NULL);
    assert_int_equal(fake_client_attach(client, "leaving"), ADMIT_OK);
    fake_client_free(client);
}

static void test_commit(void **state)
{
    RegistryWorld *world = furnished_world();
    registry_world_commit(stage_everything(world, registry_world_image(world, "new")));
    check_all(world, "d:d d:new e:kept e:new-export");
    Export *kept = registry_find_export(world->registry, "kept");
    assert_string_equal(kept->config->description, "changed");
    DiskEntry *entry = registry_find_disk(world->registry, "new");
    g_autoptr(Bitmap) bitmap = disk_find_bitmap(entry->disk, "b0");
    assert_non_null(bitmap);
    registry_world_free(world);
}

static void test_abort_leaves_no_trace(void **state)
{
    RegistryWorld *world = furnished_world();
    const char *path = registry_world_image(world, "new");
    for (int i = 0; i < 2; i++) { /* the second shows that names and the file are free again */
        txn_abort(stage_everything(world, path));
        check_untouched(world);
    }
    registry_world_commit(stage_everything(world, path));
    registry_world_free(world);
}

static void test_failed_store_leaves_no_trace(void **state)
{
    RegistryWorld *world = furnished_world();
    const char *path = registry_world_image(world, "new");
    GError *error = NULL;
    Txn *txn = stage_everything(world, path);
    store_fails = true;
    expect_error(txn_commit(txn, &error), error, ERROR_IO, NULL);
    assert_false(store_fails);
    check_untouched(world);
    registry_world_commit(stage_everything(world, path));
    registry_world_free(world);
}

static void test_staged_is_seen_by_itself_alone(void **state)
{
    RegistryWorld *world = furnished_world();
    Txn *txn = stage_everything(world, registry_world_image(world, "new"));
    assert_non_null(txn_find_disk(txn, "new"));
    assert_non_null(txn_find_export(txn, "new-export"));
    assert_null(txn_find_export(txn, "leaving"));
    assert_true(txn_has_removed_export(txn, "leaving"));
    g_autoptr(GPtrArray) exports = txn_list_exports_of(txn, "d");
    assert_int_equal(exports->len, 1);
    g_autoptr(GPtrArray) bitmaps = txn_list_bitmaps_of(txn, txn_find_disk(txn, "new"));
    assert_int_equal(bitmaps->len, 1);
    check_all(world, "d:d e:kept e:leaving");
    txn_abort(txn);
    registry_world_free(world);
}

static void test_remove_and_add_again(void **state)
{
    RegistryWorld *world = furnished_world();
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    assert_true(txn_remove_export(txn, "kept", REMOVE_SAFE, &error));
    assert_true(txn_remove_export(txn, "leaving", REMOVE_SAFE, &error));
    assert_true(txn_remove_disk(txn, "d", false, &error));
    assert_true(txn_add_disk(txn, "d", registry_world_image(world, "other"), true, CACHE_WRITEBACK,
                             false, &error));
    g_autoptr(ExportConfig) config = export_config_new("kept", "d");
    config->read_only = true;
    assert_true(txn_add_export(txn, config, &error));
    registry_world_commit(txn);
    check_all(world, "d:d e:kept");
    Export *kept = registry_find_export(world->registry, "kept");
    assert_true(kept->config->read_only);
    assert_ptr_equal(kept->disk, registry_find_disk(world->registry, "d"));
    assert_true(g_str_has_suffix(kept->disk->path, "other"));
    registry_world_free(world);
}

static void test_one_file_is_one_disk(void **state)
{
    RegistryWorld *world = furnished_world();
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    const char *path = registry_find_disk(world->registry, "d")->path;
    bool good = txn_add_disk(txn, "twice", path, true, CACHE_WRITEBACK, false, &error);
    assert_non_null(strstr(error->message, "'d'"));
    expect_error(good, error, ERROR_ALREADY_EXISTS, "/params/path");
    txn_abort(txn);

    /* Also within one transaction, and against one that runs. */
    const char *other = registry_world_image(world, "other");
    txn = registry_world_begin(world);
    error = NULL;
    assert_true(txn_add_disk(txn, "one", other, true, CACHE_WRITEBACK, false, &error));
    good = txn_add_disk(txn, "two", other, true, CACHE_WRITEBACK, false, &error);
    expect_error(good, error, ERROR_ALREADY_EXISTS, "/params/path");
    error = NULL;
    /* It waits for the first one, for as long as it may. */
    Txn *second = txn_begin(world->registry, g_get_monotonic_time() + 5 * G_USEC_PER_SEC);
    good = txn_add_disk(second, "three", other, true, CACHE_WRITEBACK, false, &error);
    if (!good && error->code == (int)ERROR_TIMEOUT)
        fail_msg("waited for another transaction's file");
    expect_error(good, error, ERROR_BUSY, "/params/path");
    txn_abort(second);
    txn_abort(txn);
    registry_world_free(world);
}

static void test_implicit_disk_goes_with_its_last_export(void **state)
{
    RegistryWorld *world = registry_world_new();
    GError *error = NULL;
    for (int with_bitmap = 0; with_bitmap < 2; with_bitmap++) {
        g_autoptr(ExportConfig) config = export_config_new("e", "e");
        Txn *txn = registry_world_begin(world);
        assert_true(txn_add_disk(txn, "e", registry_world_image(world, "e"), false, CACHE_WRITEBACK,
                                 true, &error));
        assert_true(txn_add_export(txn, config, &error));
        registry_world_commit(txn);
        registry_world_add_export(world, "view", "e", true, SHARING_EXCLUSIVE);
        if (with_bitmap)
            registry_world_add_bitmap(world, "e", "b0");
        for (int i = 0; i < 2; i++) {
            txn = registry_world_begin(world);
            assert_true(txn_remove_export(txn, i ? "view" : "e", REMOVE_SAFE, &error));
            registry_world_commit(txn);
            check_all(world, i == 0 ? "d:e e:view" : with_bitmap ? "d:e" : "");
        }
    }
    Txn *txn = registry_world_begin(world);
    expect_error(txn_remove_disk(txn, "e", false, &error), error, ERROR_INVALID_STATE,
                 "/params/force");
    error = NULL;
    assert_true(txn_remove_disk(txn, "e", true, &error));
    registry_world_commit(txn);
    check_all(world, "");
    registry_world_free(world);
}

static bool try_export(RegistryWorld *world, const char *name, bool read_only, SharingMode sharing,
                       GError **error)
{
    g_autoptr(ExportConfig) config = export_config_new(name, "d");
    config->read_only = read_only;
    config->sharing = sharing;
    Txn *txn = registry_world_begin(world);
    bool good = txn_add_export(txn, config, error);
    txn_abort(txn);
    return good;
}

static void test_one_writable_export_unless_all_are_shared(void **state)
{
    RegistryWorld *world = registry_world_new();
    GError *error = NULL;
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "one", "d", false, SHARING_SHARED);
    assert_true(try_export(world, "two", false, SHARING_SHARED, &error));
    assert_true(try_export(world, "two", true, SHARING_EXCLUSIVE, &error));
    expect_error(try_export(world, "two", false, SHARING_SINGLE_WRITER, &error), error,
                 ERROR_INVALID_STATE, "/params/read_only");

    /* A setting may not bring about what an addition may not. */
    registry_world_add_export(world, "two", "d", false, SHARING_SHARED);
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "two"));
    config->sharing = SHARING_EXCLUSIVE;
    error = NULL;
    expect_error(txn_set_export(txn, config, false, &error), error, ERROR_INVALID_STATE,
                 "/params/read_only");
    txn_abort(txn);
    registry_world_free(world);
}

static void test_a_connected_writer_counts(void **state)
{
    RegistryWorld *world = registry_world_new();
    GError *error = NULL;
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "one", "d", false, SHARING_EXCLUSIVE);
    FakeClient *writer = fake_client_new(world, NULL);
    assert_int_equal(fake_client_attach(writer, "one"), ADMIT_OK);

    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "one"));
    config->read_only = true;
    assert_true(txn_set_export(txn, config, false, &error));
    registry_world_commit(txn);
    assert_false(fake_client_was_stopped(writer)); /* it stays, and writes */
    expect_error(try_export(world, "two", false, SHARING_EXCLUSIVE, &error), error,
                 ERROR_INVALID_STATE, "/params/read_only");
    fake_client_free(writer);
    error = NULL;
    assert_true(try_export(world, "two", false, SHARING_EXCLUSIVE, &error));
    registry_world_free(world);
}

/* --- claims --- */

typedef struct {
    RegistryWorld *world;
    gint64 patience;
    GError *error;
    bool good;
} Claimer;

static void *claim_disk(void *argument)
{
    Claimer *claimer = argument;
    Txn *txn = txn_begin(claimer->world->registry, g_get_monotonic_time() + claimer->patience);
    claimer->good = txn_claim(txn, CLAIM_DISK, "d", &claimer->error);
    txn_abort(txn);
    return NULL;
}

static void test_claims_wait_and_time_out(void **state)
{
    RegistryWorld *world = furnished_world();
    Txn *holder = registry_world_begin(world);
    GError *error = NULL;
    assert_true(txn_claim(holder, CLAIM_DISK, "d", &error));
    assert_true(txn_claim(holder, CLAIM_DISK, "d", &error)); /* its own */

    Claimer hasty = {.world = world, .patience = 30 * 1000};
    claim_disk(&hasty);
    expect_error(hasty.good, hasty.error, ERROR_TIMEOUT, NULL);

    Claimer patient = {.world = world, .patience = REGISTRY_WORLD_PATIENCE};
    pthread_t thread;
    pthread_create(&thread, NULL, claim_disk, &patient);
    g_usleep(20 * 1000);
    txn_abort(holder);
    pthread_join(thread, NULL);
    assert_true(patient.good);
    registry_world_free(world);
}

static void test_a_claim_out_of_order_is_only_tried(void **state)
{
    RegistryWorld *world = furnished_world();
    GError *error = NULL;
    Txn *first = registry_world_begin(world), *second = registry_world_begin(world);
    assert_true(txn_claim(first, CLAIM_DISK, "a", &error));
    assert_true(txn_claim(second, CLAIM_EXPORT, "z", &error));
    /* One that had waited would say TIMEOUT. */
    expect_error(txn_claim(second, CLAIM_DISK, "a", &error), error, ERROR_BUSY, NULL);
    txn_abort(first);
    txn_abort(second);
    registry_world_free(world);
}

/* Whoever follows the events knows which exports there are, and takes clients. */
static void test_a_removal_that_fails_is_taken_back(void **state)
{
    RegistryWorld *world = registry_world_new();
    GError *error = NULL;
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "e", "d", false, SHARING_EXCLUSIVE);
    uint64_t cursor = events_last(world->registry->events);
    world->registry->stopping = true;
    expect_error(export_remove_ending(world->registry, "e", CLIENT_STOP_HARD,
                                      g_get_monotonic_time(), &error),
                 error, ERROR_INVALID_STATE, NULL);
    world->registry->stopping = false;
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)event_free);
    events_read(world->registry->events, &cursor, TOPIC_ALL, 10, list);
    assert_int_equal(list->len, 2);
    const Event *last = list->pdata[1];
    assert_string_equal(((const Event *)list->pdata[0])->event, "removing");
    assert_string_equal(last->event, "changed");
    assert_string_equal(last->name, "e");
    assert_string_equal(last->disk, "d");
    assert_non_null(last->detail);
    registry_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit),
        cmocka_unit_test(test_abort_leaves_no_trace),
        cmocka_unit_test(test_failed_store_leaves_no_trace),
        cmocka_unit_test(test_staged_is_seen_by_itself_alone),
        cmocka_unit_test(test_remove_and_add_again),
        cmocka_unit_test(test_one_file_is_one_disk),
        cmocka_unit_test(test_implicit_disk_goes_with_its_last_export),
        cmocka_unit_test(test_one_writable_export_unless_all_are_shared),
        cmocka_unit_test(test_a_connected_writer_counts),
        cmocka_unit_test(test_claims_wait_and_time_out),
        cmocka_unit_test(test_a_claim_out_of_order_is_only_tried),
        cmocka_unit_test(test_a_removal_that_fails_is_taken_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
