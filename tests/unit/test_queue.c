/* Exclusive exports that are taken: who is refused, who waits, who takes over; and the bound on the
 * connections of one identity. */
#include "tests/unit/registry_world.h"

static void change(RegistryWorld *world, ExportOnBusy on_busy, SharingMode sharing,
                   uint32_t per_identity)
{
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    config->on_busy = on_busy;
    config->sharing = sharing;
    config->max_clients_per_identity = per_identity;
    if (!txn_set_export(txn, config, false, &error))
        fail_msg("%s", error->message);
    registry_world_commit(txn);
}

static RegistryWorld *world_with(ExportOnBusy on_busy)
{
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "e", "d", false, SHARING_EXCLUSIVE);
    change(world, on_busy, SHARING_EXCLUSIVE, 0);
    return world;
}

/* How often it was told to ask again. */
static void on_wake(gpointer fake)
{
    ((FakeClient *)fake)->woken++;
}

static unsigned woken(FakeClient *fake)
{
    registry_lock(fake->client->registry);
    unsigned count = fake->woken;
    registry_unlock(fake->client->registry);
    return count;
}

static FakeClient *new_client(RegistryWorld *world, const char *identity)
{
    FakeClient *fake = fake_client_new(world, identity);
    client_set_wake(fake->client, on_wake);
    return fake;
}

static FakeClient *asked(RegistryWorld *world, const char *identity, Admission expected)
{
    FakeClient *fake = new_client(world, identity);
    assert_int_equal(fake_client_attach(fake, "e"), expected);
    assert_true((expected == ADMIT_POLICY) == (fake->text != NULL));
    return fake;
}

static void ask(FakeClient *fake, Admission expected)
{
    g_clear_pointer(&fake->text, g_free);
    assert_int_equal(fake_client_attach(fake, "e"), expected);
}

static void test_waiters_come_in_order(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_WAIT);
    FakeClient *holder = asked(world, "unix:1", ADMIT_OK);
    FakeClient *first = asked(world, "unix:2", ADMIT_BUSY);
    FakeClient *second = asked(world, "unix:3", ADMIT_BUSY);
    ask(second, ADMIT_BUSY); /* asking does not change its place */
    ask(first, ADMIT_BUSY);
    assert_true(client_ask_again(first->client) == G_MAXINT64);
    RegistryCounts counts;
    registry_lock(world->registry);
    registry_count(world->registry, &counts);
    registry_unlock(world->registry);
    assert_int_equal(counts.clients, 1); /* they do not count as served */
    assert_int_equal(counts.handshakes, 2);

    fake_client_free(holder);
    assert_int_equal(woken(first), 1);
    assert_int_equal(woken(second), 0);
    FakeClient *late = asked(world, "unix:4", ADMIT_BUSY); /* a free slot is the first one's */
    ask(second, ADMIT_BUSY);
    ask(first, ADMIT_OK);
    assert_int_equal(woken(second), 1);
    ask(second, ADMIT_BUSY);
    fake_client_free(second); /* goes while it waits */
    assert_int_equal(woken(late), 1);
    fake_client_free(first);
    ask(late, ADMIT_OK);
    fake_client_free(late);
    registry_world_free(world);
}

static void test_one_who_has_waited_enough(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_WAIT);
    FakeClient *holder = asked(world, "unix:1", ADMIT_OK);
    FakeClient *first = asked(world, "unix:2", ADMIT_BUSY);
    FakeClient *second = asked(world, "unix:3", ADMIT_BUSY);
    g_autofree char *text = client_stop_waiting(first->client);
    assert_non_null(strstr(text, "in time"));
    assert_null(client_stop_waiting(first->client));
    assert_int_equal(woken(second), 1);
    fake_client_free(holder);
    ask(second, ADMIT_OK);
    fake_client_free(first);
    fake_client_free(second);
    registry_world_free(world);
}

static void test_settings_change_under_waiters(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_WAIT);
    FakeClient *holder = asked(world, "unix:1", ADMIT_OK);
    FakeClient *waiters[2] = {asked(world, "unix:2", ADMIT_BUSY),
                              asked(world, "unix:3", ADMIT_BUSY)};
    change(world, EXPORT_ON_BUSY_REFUSE, SHARING_EXCLUSIVE, 0);
    assert_true(woken(waiters[0]) > 0 && woken(waiters[1]) > 0);
    ask(waiters[0], ADMIT_POLICY);
    ask(waiters[1], ADMIT_POLICY);
    change(world, EXPORT_ON_BUSY_WAIT, SHARING_EXCLUSIVE, 0);
    ask(waiters[0], ADMIT_BUSY);
    ask(waiters[1], ADMIT_BUSY);
    change(world, EXPORT_ON_BUSY_REFUSE, SHARING_SHARED, 0);
    ask(waiters[1], ADMIT_OK); /* nobody queues for what is shared */
    ask(waiters[0], ADMIT_OK);
    fake_client_free(holder);
    fake_client_free(waiters[0]);
    fake_client_free(waiters[1]);
    registry_world_free(world);
}

static void test_the_export_goes_under_waiters(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_WAIT);
    FakeClient *holder = asked(world, "unix:1", ADMIT_OK);
    FakeClient *waiter = asked(world, "unix:2", ADMIT_BUSY);
    GError *error = NULL;
    assert_true(export_remove_ending(world->registry, "e", CLIENT_STOP_HARD,
                                     g_get_monotonic_time() + REGISTRY_WORLD_PATIENCE, &error));
    assert_true(woken(waiter) > 0);
    ask(waiter, ADMIT_UNKNOWN);
    /* One of the same name is another one. */
    registry_world_add_export(world, "e", "d", false, SHARING_EXCLUSIVE);
    ask(waiter, ADMIT_OK);
    fake_client_free(holder);
    fake_client_free(waiter);
    registry_world_free(world);
}

static void test_the_daemon_stops_under_waiters(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_WAIT);
    FakeClient *holder = asked(world, "unix:1", ADMIT_OK);
    FakeClient *waiter = asked(world, "unix:2", ADMIT_BUSY);
    registry_begin_shutdown(world->registry);
    ask(waiter, ADMIT_SHUTDOWN);
    fake_client_free(holder);
    fake_client_free(waiter);
    registry_world_free(world);
}

static void test_the_same_identity_takes_over(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_STEAL);
    FakeClient *older = asked(world, "psk:guest", ADMIT_OK);
    FakeClient *newer = asked(world, "psk:guest", ADMIT_BUSY);
    assert_true(fake_client_was_stopped(older));
    assert_int_equal(older->how, CLIENT_STOP_DRAIN); /* its requests are finished first */
    fake_client_free(older);
    assert_true(woken(newer) > 0);
    ask(newer, ADMIT_OK);
    assert_false(newer->view.read_only);
    fake_client_free(newer);
    registry_world_free(world);
}

static void test_one_that_hangs_is_ended_hard(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_STEAL);
    FakeClient *older = asked(world, "psk:guest", ADMIT_OK);
    older->stubborn = true;
    gint64 before = g_get_monotonic_time();
    FakeClient *newer = asked(world, "psk:guest", ADMIT_BUSY);
    gint64 after = g_get_monotonic_time(), when = client_ask_again(newer->client);
    assert_true(when > before && when <= after + G_USEC_PER_SEC);
    assert_false(fake_client_was_stopped(older));
    g_usleep(MAX(when - g_get_monotonic_time(), 0) + 1000);
    ask(newer, ADMIT_BUSY); /* it is still not gone: never two of them */
    assert_true(client_ask_again(newer->client) == G_MAXINT64);
    assert_true(fake_client_was_stopped(older));
    assert_int_equal(older->how, CLIENT_STOP_HARD);
    fake_client_free(older);
    ask(newer, ADMIT_OK);
    fake_client_free(newer);
    registry_world_free(world);
}

/* holder and asker: their identities, blanks between; "tls" says that they have come with it. */
static void check_steal(const char *holder, const char *asker, bool may)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_STEAL);
    const char *both[2] = {holder, asker};
    FakeClient *clients[2];
    for (int i = 0; i < 2; i++) {
        g_auto(GStrv) words = g_strsplit(both[i], " ", -1);
        clients[i] = new_client(world, NULL);
        for (char **word = words; *word; word++) {
            if (g_str_equal(*word, "tls"))
                client_enter_tls(clients[i]->client, NULL, NULL);
            else if (**word)
                client_add_identity(clients[i]->client, *word);
        }
        ask(clients[i], i == 0 ? ADMIT_OK : may ? ADMIT_BUSY : ADMIT_POLICY);
    }
    assert_int_equal(fake_client_was_stopped(clients[0]), may);
    assert_true(may || clients[1]->text);
    fake_client_free(clients[0]);
    fake_client_free(clients[1]);
    registry_world_free(world);
}

static void test_who_is_the_same(void **state)
{
    check_steal("unix:1", "unix:1", true);
    check_steal("unix:1", "unix:2", false);
    check_steal("ip:192.0.2.1", "ip:192.0.2.1", true); /* nothing better is known */
    check_steal("ip:192.0.2.1", "ip:192.0.2.2", false);
    /* The address does not count where there is something better... */
    check_steal("tls ip:192.0.2.1 x509:CN=a", "tls ip:192.0.2.2 x509:CN=a", true);
    check_steal("tls ip:192.0.2.1 x509:CN=a", "tls ip:192.0.2.1 x509:CN=b", false);
    check_steal("tls unix:1 psk:a", "tls unix:1 psk:b", false);
    check_steal("tls unix:1 psk:a", "tls unix:2 psk:a", true);
    /* ... and whoever has nothing better is not the one who has. */
    check_steal("tls ip:192.0.2.1 psk:a", "ip:192.0.2.1", false);
    check_steal("unix:1", "tls unix:1 psk:a", false);
    check_steal("tls ip:192.0.2.1", "ip:192.0.2.1", false);
    check_steal("ip:192.0.2.1", "tls ip:192.0.2.1", true);
    check_steal("", "", false);
}

static void test_nobody_overtakes_one_who_steals(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_STEAL);
    FakeClient *older = asked(world, "psk:guest", ADMIT_OK);
    FakeClient *newer = asked(world, "psk:guest", ADMIT_BUSY);
    fake_client_free(older);
    FakeClient *other = asked(world, "psk:other", ADMIT_POLICY);
    FakeClient *newest = asked(world, "psk:guest", ADMIT_BUSY);
    ask(newer, ADMIT_OK);
    ask(newest, ADMIT_BUSY); /* now it is its turn to take over */
    assert_true(fake_client_was_stopped(newer));
    fake_client_free(newer);
    ask(newest, ADMIT_OK);
    fake_client_free(newest);
    fake_client_free(other);
    registry_world_free(world);
}

static void test_clients_of_one_identity(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_REFUSE);
    change(world, EXPORT_ON_BUSY_REFUSE, SHARING_SHARED, 2);
    FakeClient *a = asked(world, "unix:1", ADMIT_OK), *b = asked(world, "unix:1", ADMIT_OK);
    FakeClient *c = asked(world, "unix:1", ADMIT_POLICY), *d = asked(world, "unix:2", ADMIT_OK);
    assert_non_null(strstr(c->text, "max_clients_per_identity"));
    fake_client_free(a);
    ask(c, ADMIT_OK);
    /* The daemon's bound is for exports without one. */
    world->registry->limits.clients_per_identity = 1;
    FakeClient *e = asked(world, "unix:2", ADMIT_OK);
    change(world, EXPORT_ON_BUSY_REFUSE, SHARING_SHARED, 0);
    FakeClient *f = asked(world, "unix:2", ADMIT_POLICY), *g = asked(world, "unix:3", ADMIT_OK);
    FakeClient *all[] = {b, c, d, e, f, g};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
        fake_client_free(all[i]);
    registry_world_free(world);
}

static void test_evicting_the_surplus_of_an_identity(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_REFUSE);
    change(world, EXPORT_ON_BUSY_REFUSE, SHARING_SHARED, 0);
    FakeClient *a = asked(world, "unix:1", ADMIT_OK), *b = asked(world, "unix:1", ADMIT_OK);
    FakeClient *c = asked(world, "unix:2", ADMIT_OK);
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    config->max_clients_per_identity = 1;
    assert_true(txn_set_export(txn, config, true, &error));
    registry_world_commit(txn);
    assert_false(fake_client_was_stopped(a));
    assert_true(fake_client_was_stopped(b));
    assert_false(fake_client_was_stopped(c));
    fake_client_free(a);
    fake_client_free(b);
    fake_client_free(c);
    registry_world_free(world);
}

static void test_only_exclusive_exports_are_waited_for(void **state)
{
    RegistryWorld *world = world_with(EXPORT_ON_BUSY_STEAL);
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    config->sharing = SHARING_SHARED;
    expect_error(txn_set_export(txn, config, false, &error), error, ERROR_INVALID_ARGUMENT,
                 "/params/on_busy");
    txn_abort(txn);
    registry_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waiters_come_in_order),
        cmocka_unit_test(test_one_who_has_waited_enough),
        cmocka_unit_test(test_settings_change_under_waiters),
        cmocka_unit_test(test_the_export_goes_under_waiters),
        cmocka_unit_test(test_the_daemon_stops_under_waiters),
        cmocka_unit_test(test_the_same_identity_takes_over),
        cmocka_unit_test(test_one_that_hangs_is_ended_hard),
        cmocka_unit_test(test_who_is_the_same),
        cmocka_unit_test(test_nobody_overtakes_one_who_steals),
        cmocka_unit_test(test_clients_of_one_identity),
        cmocka_unit_test(test_evicting_the_surplus_of_an_identity),
        cmocka_unit_test(test_only_exclusive_exports_are_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
