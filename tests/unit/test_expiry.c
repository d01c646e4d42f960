/* Allow entries that end, and the clients that they admitted. */
#include "daemon/core/expiry.h"
#include "tests/unit/registry_world.h"

/* 2100-01-01T00:00:00Z: far enough for no test to last so long. */
#define END      (INT64_C(4102444800) * G_USEC_PER_SEC)
#define END_TEXT "until:2100-01-01T00:00:00Z:"

static void set_allow(RegistryWorld *world, const char *const *entries)
{
    GError *error = NULL;
    size_t index;
    char *reason = NULL;
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    g_clear_pointer(&config->allow, allow_list_unref);
    config->allow = allow_list_new(entries, &index, &reason);
    if (!config->allow || !txn_set_export(txn, config, false, &error))
        fail_msg("%s", reason ? reason : error->message);
    registry_world_commit(txn);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static RegistryWorld *world_with(const char *const *entries)
{
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "e", "d", false, SHARING_SHARED);
    set_allow(world, entries);
    return world;
}

static FakeClient *connected(RegistryWorld *world, const char *identity)
{
    FakeClient *fake = fake_client_new(world, identity);
    assert_int_equal(fake_client_attach(fake, "e"), ADMIT_OK);
    return fake;
}

static unsigned count_events(RegistryWorld *world, const char *name)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)event_free);
    uint64_t cursor = 0;
    unsigned count = 0;
    events_read(world->registry->events, &cursor, TOPIC_ALL, 1000, list);
    for (guint i = 0; i < list->len; i++)
        count += g_str_equal(((const Event *)list->pdata[i])->event, name);
    return count;
}

static void test_who_goes_with_an_entry(void **state)
{
    RegistryWorld *world = world_with(LIST(END_TEXT "psk:guest", END_TEXT "psk:reader",
                                           "ro:psk:reader", "psk:owner", END_TEXT "!psk:banned"));
    FakeClient *guest = connected(world, "psk:guest"), *owner = connected(world, "psk:owner");
    FakeClient *reader = connected(world, "psk:reader"); /* who writes, so far */
    assert_true(world->registry->expiry_next == END);

    expiry_run(world->registry, END - 1);
    assert_false(fake_client_was_stopped(guest));
    assert_int_equal(count_events(world, "expired"), 0);
    assert_true(world->registry->expiry_next == END);

    expiry_run(world->registry, END);
    assert_true(fake_client_was_stopped(guest));
    assert_int_equal(guest->how, CLIENT_STOP_DRAIN);
    assert_true(fake_client_was_stopped(reader)); /* it could read, but it has seen its flags */
    assert_false(fake_client_was_stopped(owner));
    assert_int_equal(count_events(world, "expired"), 3);
    assert_true(world->registry->expiry_next == ALLOW_FOR_EVER);

    expiry_run(world->registry, END + 1);
    assert_int_equal(count_events(world, "expired"), 3);
    fake_client_free(guest);
    fake_client_free(reader);
    fake_client_free(owner);
    registry_world_free(world);
}

static void test_who_stays(void **state)
{
    RegistryWorld *world = world_with(LIST("psk:early", "ro:psk:reader", "psk:guest"));
    FakeClient *early = connected(world, "psk:early"), *reader = connected(world, "psk:reader");
    FakeClient *guest = connected(world, "psk:guest");
    /* One is left out of the new list and stays, as the contract has it; one is admitted twice. */
    set_allow(world, LIST(END_TEXT "psk:guest", "psk:guest", END_TEXT "psk:other",
                          END_TEXT "psk:reader", "ro:psk:reader"));
    expiry_run(world->registry, END);
    assert_false(fake_client_was_stopped(early));
    assert_false(fake_client_was_stopped(guest));
    assert_false(fake_client_was_stopped(reader));
    fake_client_free(early);
    fake_client_free(guest);
    fake_client_free(reader);
    registry_world_free(world);
}

static void test_the_next_end_is_known(void **state)
{
    RegistryWorld *world = world_with(LIST(END_TEXT "psk:a"));
    set_allow(world, LIST("until:2101-01-01T00:00:00Z:psk:a"));
    assert_true(world->registry->expiry_next == END); /* too early does no harm */
    expiry_run(world->registry, END);
    assert_true(world->registry->expiry_next > END);
    assert_true(world->registry->expiry_next < ALLOW_FOR_EVER);
    assert_int_equal(count_events(world, "expired"), 0);
    int64_t later = world->registry->expiry_next;
    set_allow(world, LIST("until:2100-06-01T00:00:00Z:psk:a", "until:2020-01-01T00:00:00Z:psk:b"));
    assert_true(world->registry->expiry_next > END && world->registry->expiry_next < later);
    registry_world_free(world);
}

static char *ending(int64_t microseconds, const char *entry)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(microseconds / G_USEC_PER_SEC);
    g_autofree char *text = g_date_time_format(time, "until:%Y-%m-%dT%H:%M:%SZ:");
    return g_strconcat(text, entry, NULL);
}

/* What a list never granted does not end: whom it leaves out stays, as with any other list. */
static void test_an_entry_that_was_over_when_it_was_given(void **state)
{
    RegistryWorld *world = world_with(LIST("psk:guest"));
    FakeClient *guest = connected(world, "psk:guest");
    int64_t now = g_get_real_time(), hour = INT64_C(3600) * G_USEC_PER_SEC;
    g_autofree char *over = ending(now - hour, "psk:guest");
    world->registry->expiry_checked = now - 2 * hour; /* nothing has ended for so long */
    set_allow(world, LIST(over, "psk:other"));
    expiry_run(world->registry, now);
    assert_false(fake_client_was_stopped(guest));
    assert_int_equal(count_events(world, "expired"), 0);
    fake_client_free(guest);
    registry_world_free(world);
}

/* The clock was ahead, and is set right: what had ended has not, and will. */
static void test_a_clock_that_is_set_back(void **state)
{
    RegistryWorld *world = world_with(LIST(END_TEXT "psk:guest"));
    expiry_start(world->registry);
    g_source_set_ready_time(world->registry->expiry_timer, -1); /* as when it has run */
    expiry_run(world->registry, END + 1);
    assert_true(g_source_get_ready_time(world->registry->expiry_timer) >= 0);
    expiry_run(world->registry, END - 1);
    FakeClient *guest = connected(world, "psk:guest");
    expiry_run(world->registry, END);
    assert_true(fake_client_was_stopped(guest));
    set_allow(world, LIST("psk:guest"));
    expiry_run(world->registry, END + 1);
    assert_true(g_source_get_ready_time(world->registry->expiry_timer) < 0);
    expiry_stop(world->registry);
    fake_client_free(guest);
    registry_world_free(world);
}

/* The timer itself, in real time. */
static void test_the_timer(void **state)
{
    RegistryWorld *world = world_with(LIST("psk:a"));
    expiry_start(world->registry);
    FakeClient *client = connected(world, "psk:a");
    set_allow(world, LIST("for:1s:psk:a"));
    gint64 deadline = g_get_monotonic_time() + REGISTRY_WORLD_PATIENCE;
    while (!fake_client_was_stopped(client) && g_get_monotonic_time() < deadline)
        g_main_context_iteration(NULL, TRUE);
    assert_true(fake_client_was_stopped(client));
    FakeClient *late = fake_client_new(world, "psk:a");
    assert_int_equal(fake_client_attach(late, "e"), ADMIT_UNKNOWN);
    expiry_stop(world->registry);
    fake_client_free(late);
    fake_client_free(client);
    registry_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: it alone runs the main loop, and the others leave timers there for registries
         * that are gone. */
        cmocka_unit_test(test_the_timer),
        cmocka_unit_test(test_who_goes_with_an_entry),
        cmocka_unit_test(test_who_stays),
        cmocka_unit_test(test_the_next_end_is_known),
        cmocka_unit_test(test_an_entry_that_was_over_when_it_was_given),
        cmocka_unit_test(test_a_clock_that_is_set_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
