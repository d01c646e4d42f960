/* Clients and exports: slots, sharing as it changes under them, eviction, removal, shutdown. */
#include "tests/unit/registry_world.h"

static RegistryWorld *world_with(SharingMode sharing)
{
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "e", "d", false, sharing);
    return world;
}

static FakeClient *connected(RegistryWorld *world)
{
    FakeClient *fake = fake_client_new(world, "unix:1000");
    assert_int_equal(fake_client_attach(fake, "e"), ADMIT_OK);
    return fake;
}

typedef void (*Changer)(ExportConfig *config);

static void change(RegistryWorld *world, Changer changer, bool evict)
{
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    changer(config);
    if (!txn_set_export(txn, config, evict, &error))
        fail_msg("%s", error->message);
    registry_world_commit(txn);
}

static void test_exclusive_gives_its_slot_back(void **state)
{
    RegistryWorld *world = world_with(SHARING_EXCLUSIVE);
    FakeClient *first = connected(world), *second = fake_client_new(world, NULL);
    assert_false(first->view.read_only);
    assert_int_equal(fake_client_attach(second, "e"), ADMIT_POLICY);
    assert_non_null(strstr(second->text, "exclusive"));
    g_clear_pointer(&second->text, g_free);
    fake_client_free(first);
    assert_int_equal(fake_client_attach(second, "e"), ADMIT_OK);
    fake_client_free(second);
    registry_world_free(world);
}

static void test_single_writer_passes_on_the_pen(void **state)
{
    RegistryWorld *world = world_with(SHARING_SINGLE_WRITER);
    FakeClient *writer = connected(world), *reader = connected(world);
    assert_false(writer->view.read_only);
    assert_true(reader->view.read_only);
    assert_false(writer->view.multi_conn);
    assert_true(reader->view.multi_conn);
    fake_client_free(writer);
    FakeClient *next = connected(world);
    assert_false(next->view.read_only);
    fake_client_free(next);
    fake_client_free(reader);
    registry_world_free(world);
}

static void test_go_answers_what_info_promised(void **state)
{
    RegistryWorld *world = world_with(SHARING_SINGLE_WRITER);
    FakeClient *writer = connected(world), *asked = fake_client_new(world, NULL);
    ExportView view = {0};
    assert_int_equal(client_peek(asked->client, "e", &view, &asked->text), ADMIT_OK);
    assert_true(view.read_only);
    export_view_clear(&view);
    fake_client_free(writer);
    /* It could write now, but was told otherwise. */
    assert_int_equal(fake_client_attach(asked, "e"), ADMIT_OK);
    assert_true(asked->view.read_only);

    FakeClient *hopeful = fake_client_new(world, NULL);
    assert_int_equal(client_peek(hopeful->client, "e", &view, &hopeful->text), ADMIT_OK);
    assert_false(view.read_only);
    export_view_clear(&view);
    FakeClient *faster = connected(world);
    assert_false(faster->view.read_only);
    assert_int_equal(fake_client_attach(hopeful, "e"), ADMIT_POLICY);
    g_clear_pointer(&hopeful->text, g_free);
    /* STARTTLS forgets what was promised. */
    client_enter_tls(hopeful->client, NULL, NULL);
    assert_int_equal(fake_client_attach(hopeful, "e"), ADMIT_OK);
    assert_true(hopeful->view.read_only);
    fake_client_free(hopeful);
    fake_client_free(faster);
    fake_client_free(asked);
    registry_world_free(world);
}

static void make_exclusive(ExportConfig *config)
{
    config->sharing = SHARING_EXCLUSIVE;
}

static void make_read_only(ExportConfig *config)
{
    config->read_only = true;
}

static void allow_nobody(ExportConfig *config)
{
    size_t index;
    char *reason;
    const char *const none[] = {NULL};
    config->allow = allow_list_new(none, &index, &reason);
}

static void bound_two(ExportConfig *config)
{
    config->max_clients = 2;
}

static void test_a_changed_setting_lets_the_connected_stay(void **state)
{
    static const Changer changers[] = {make_exclusive, make_read_only, allow_nobody, bound_two};
    for (size_t i = 0; i < G_N_ELEMENTS(changers); i++) {
        RegistryWorld *world = world_with(SHARING_SHARED);
        FakeClient *clients[3], *late = fake_client_new(world, NULL);
        for (int j = 0; j < 3; j++)
            clients[j] = connected(world);
        change(world, changers[i], false);
        for (int j = 0; j < 3; j++)
            assert_false(fake_client_was_stopped(clients[j]));
        Admission late_one = fake_client_attach(late, "e");
        if (changers[i] == make_read_only)
            assert_true(late_one == ADMIT_OK && late->view.read_only);
        else
            assert_int_equal(late_one, changers[i] == allow_nobody ? ADMIT_UNKNOWN : ADMIT_POLICY);
        for (int j = 0; j < 3; j++)
            fake_client_free(clients[j]);
        fake_client_free(late);
        registry_world_free(world);
    }
}

static void check_evicted(Changer changer, unsigned staying)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    FakeClient *clients[3];
    for (int i = 0; i < 3; i++)
        clients[i] = connected(world);
    change(world, changer, true);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(fake_client_was_stopped(clients[i]), i >= staying);
    /* They are gone when the change has been answered, not some time later. */
    assert_int_equal(registry_find_export(world->registry, "e")->clients->len, staying);
    for (int i = 0; i < 3; i++)
        fake_client_free(clients[i]);
    registry_world_free(world);
}

static void test_evict_ends_those_not_admitted(void **state)
{
    check_evicted(make_exclusive, 1);
    check_evicted(bound_two, 2);
    check_evicted(make_read_only, 0); /* all of them write */
    check_evicted(allow_nobody, 0);
}

static void test_a_stubborn_client_is_ended_hard(void **state)
{
    RegistryWorld *world = world_with(SHARING_EXCLUSIVE);
    FakeClient *stubborn = connected(world);
    stubborn->stubborn = true;
    change(world, allow_nobody, true);
    assert_true(fake_client_was_stopped(stubborn));
    assert_int_equal(stubborn->how, CLIENT_STOP_HARD);
    fake_client_free(stubborn);
    registry_world_free(world);
}

static void test_safe_removal_is_busy(void **state)
{
    RegistryWorld *world = world_with(SHARING_EXCLUSIVE);
    FakeClient *client = connected(world);
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    expect_error(txn_remove_export(txn, "e", REMOVE_SAFE, &error), error, ERROR_BUSY,
                 "/params/name");
    txn_abort(txn);
    fake_client_free(client);

    /* One who comes between the check and the commit is not thrown out. */
    error = NULL;
    txn = registry_world_begin(world);
    assert_true(txn_remove_export(txn, "e", REMOVE_SAFE, &error));
    client = connected(world);
    expect_error(txn_commit(txn, &error), error, ERROR_BUSY, NULL);
    assert_false(fake_client_was_stopped(client));
    fake_client_free(client);
    registry_world_free(world);
}

static void check_ending(ClientStop how, bool stubborn, gint64 patience, ClientStop told)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    FakeClient *clients[2] = {connected(world), connected(world)};
    clients[1]->stubborn = stubborn;
    GError *error = NULL;
    assert_true(
        export_remove_ending(world->registry, "e", how, g_get_monotonic_time() + patience, &error));
    assert_null(registry_find_export(world->registry, "e"));
    assert_int_equal(clients[0]->how, stubborn ? CLIENT_STOP_DRAIN : told);
    assert_int_equal(clients[1]->how, told);
    fake_client_free(clients[0]);
    fake_client_free(clients[1]);
    registry_world_free(world);
}

static void test_removal_with_drain_and_hard(void **state)
{
    check_ending(CLIENT_STOP_DRAIN, false, REGISTRY_WORLD_PATIENCE, CLIENT_STOP_DRAIN);
    /* All of it passes; with none left at the call itself nobody would hear of draining. */
    check_ending(CLIENT_STOP_DRAIN, true, 3 * G_USEC_PER_SEC, CLIENT_STOP_HARD);
    check_ending(CLIENT_STOP_HARD, false, REGISTRY_WORLD_PATIENCE, CLIENT_STOP_HARD);
}

static void test_shutdown(void **state)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    FakeClient *served = connected(world), *greeting = fake_client_new(world, NULL);
    greeting->stubborn = true; /* in the handshake, it holds nothing up */
    registry_begin_shutdown(world->registry);
    assert_int_equal(fake_client_attach(greeting, "e"), ADMIT_SHUTDOWN);
    assert_null(client_list_exports(greeting->client, NULL, 1));
    char *text = NULL;
    assert_null(client_new(world->registry, "l", "unix:/l", NULL, NULL, NULL, &text));
    assert_non_null(text);
    g_free(text);

    registry_stop_clients(world->registry, NULL, CLIENT_STOP_DRAIN);
    assert_true(registry_wait_clients(world->registry, NULL,
                                      g_get_monotonic_time() + REGISTRY_WORLD_PATIENCE));
    assert_false(fake_client_was_stopped(greeting));
    registry_stop_clients(world->registry, NULL, CLIENT_STOP_HARD);
    assert_true(fake_client_was_stopped(greeting));
    fake_client_free(served);
    fake_client_free(greeting);
    registry_world_free(world);
}

static void test_bounds_of_daemon_and_listener(void **state)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    world->registry->limits.clients = 2;
    FakeClient *first = connected(world), *second = connected(world);
    FakeClient *third = fake_client_new(world, NULL);
    assert_int_equal(fake_client_attach(third, "e"), ADMIT_POLICY);
    g_clear_pointer(&third->text, g_free);
    world->registry->limits.clients = 10;
    registry_find_listener(world->registry, "l")->max_clients = 2;
    assert_int_equal(fake_client_attach(third, "e"), ADMIT_POLICY);
    g_clear_pointer(&third->text, g_free);
    fake_client_free(first);
    assert_int_equal(fake_client_attach(third, "e"), ADMIT_OK);

    fake_client_free(second);
    fake_client_free(third);
    registry_world_free(world);
}

/* Few may be on their way at once, so it takes a while. How many. */
static unsigned make_way_for_all(RegistryWorld *world)
{
    const Handshakes *handshakes = &world->registry->handshakes;
    unsigned count = 0;
    for (bool any = true; any; g_usleep(1000)) {
        count += clients_make_way(world->registry, 10);
        registry_lock(world->registry);
        any = handshakes->strangers.count + handshakes->known.count > 0;
        registry_unlock(world->registry);
    }
    return count;
}

/* Who sits in the handshake gives way to newcomers: the oldest, of the peer that has the most. */
static void test_handshakes_give_way(void **state)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    FakeClient *served = connected(world);
    world->registry->limits.handshakes = 4;
    FakeClient *lone = fake_client_new(world, "ip:192.0.2.1");
    FakeClient *many[3] = {
        fake_client_new(world, "ip:2001:db8::1"),
        fake_client_new(world, "ip:2001:db8::ffff:2"), /* of the same network: the same peer */
        fake_client_new(world, "ip:2001:db8::3"),
    };
    for (int i = 0; i < 3; i++)
        assert_false(fake_client_was_stopped(many[i]));
    FakeClient *other = fake_client_new(world, "unix:1000");
    assert_true(fake_client_was_stopped(many[0]));
    assert_int_equal(many[0]->how, CLIENT_STOP_HARD);
    assert_int_equal(fake_client_attach(many[0], "e"), ADMIT_SHUTDOWN);
    FakeClient *another = fake_client_new(world, "unix:1001");
    assert_true(fake_client_was_stopped(many[1]));
    /* Each has one by now: the oldest. */
    FakeClient *last = fake_client_new(world, "unix:1002");
    assert_true(fake_client_was_stopped(lone));
    assert_false(fake_client_was_stopped(many[2]));
    assert_false(fake_client_was_stopped(served));

    /* Those that are served give way to nobody. */
    assert_int_equal(fake_client_attach(other, "e"), ADMIT_OK);
    assert_int_equal(make_way_for_all(world), 3);
    assert_false(fake_client_was_stopped(served) || fake_client_was_stopped(other));
    FakeClient *all[] = {served, lone, many[0], many[1], many[2], other, another, last};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
        fake_client_free(all[i]);
    assert_int_equal(world->registry->giving_way, 0);
    registry_world_free(world);
}

static FakeClient *proven(RegistryWorld *world, const char *address, const char *identity)
{
    FakeClient *fake = fake_client_new(world, address);
    client_add_identity(fake->client, identity);
    return fake;
}

/* Who has proven who it is gives way as well, but not to strangers: to those it is too many of. */
static void test_the_known_give_way(void **state)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    Handshakes *handshakes = &world->registry->handshakes;
    world->registry->limits.handshakes = 4;
    FakeClient *bob = proven(world, "ip:192.0.2.1", "psk:bob");
    FakeClient *alice[3], *strangers[3];
    alice[0] = proven(world, "ip:192.0.2.1", "psk:alice");
    /* Half of the room is theirs, whoever comes. */
    for (int i = 0; i < 3; i++)
        strangers[i] = fake_client_new(world, "ip:192.0.2.9");
    assert_true(fake_client_was_stopped(strangers[0]));
    assert_false(fake_client_was_stopped(bob) || fake_client_was_stopped(alice[0]));
    /* More than that is not: the oldest of the identity that has the most goes. */
    alice[1] = proven(world, "ip:192.0.2.2", "psk:alice");
    assert_true(fake_client_was_stopped(strangers[1]));
    alice[2] = proven(world, "ip:192.0.2.3", "psk:alice");
    assert_true(fake_client_was_stopped(alice[0]));
    assert_false(fake_client_was_stopped(bob) || fake_client_was_stopped(alice[1]));
    assert_false(fake_client_was_stopped(strangers[2]));
    /* Nobody sits there and locks the others out. */
    assert_int_equal(handshakes->known.count, 3);
    assert_int_equal(make_way_for_all(world), 4);
    client_add_identity(alice[0]->client, "psk:late"); /* it has been told to go */
    assert_int_equal(handshakes->known.count + handshakes->strangers.count, 0);

    FakeClient *all[] = {bob,          alice[0],     alice[1],    alice[2],
                         strangers[0], strangers[1], strangers[2]};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
        fake_client_free(all[i]);
    assert_int_equal(world->registry->giving_way, 0);
    assert_int_equal(handshakes->known.count + handshakes->strangers.count, 0);
    assert_int_equal(g_hash_table_size(handshakes->known.peers), 0);
    assert_int_equal(g_hash_table_size(handshakes->strangers.peers), 0);
    registry_world_free(world);
}

static void ignore(gpointer connection, ClientStop how)
{
}

/* Threads that are slow to end have a bound as well. */
static void test_giving_way_is_bounded(void **state)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    Registry *registry = world->registry;
    registry->limits.handshakes = 2;
    Client *slow[5] = {0};
    char *text = NULL;
    for (int i = 0; i < 4; i++) {
        slow[i] = client_new(registry, "l", "unix:/l", NULL, ignore, NULL, &text);
        assert_non_null(slow[i]);
    }
    assert_null(client_new(registry, "l", "unix:/l", NULL, ignore, NULL, &text));
    g_free(text);
    client_closed(slow[0]);
    slow[4] = client_new(registry, "l", "unix:/l", NULL, ignore, NULL, &text);
    assert_non_null(slow[4]);
    for (int i = 1; i < 5; i++)
        client_closed(slow[i]);
    for (int i = 0; i < 5; i++)
        client_unref(slow[i]);
    registry_world_free(world);
}

static void test_counters_are_folded(void **state)
{
    RegistryWorld *world = world_with(SHARING_SHARED);
    FakeClient *one = connected(world), *two = connected(world);
    Export *export = registry_find_export(world->registry, "e");
    IoStats sum;
    client_stats(one->client)->requests[OP_READ] = 3;
    client_stats(one->client)->latency[OP_READ][5] = 3;
    client_stats(two->client)->requests[OP_READ] = 4;
    for (int round = 0; round < 2; round++) {
        registry_lock(world->registry);
        registry_sum_export(world->registry, export, &sum);
        assert_int_equal(sum.requests[OP_READ], 7);
        assert_int_equal(sum.latency[OP_READ][5], 3);
        registry_sum_daemon(world->registry, &sum);
        assert_int_equal(sum.requests[OP_READ], 7);
        registry_unlock(world->registry);
        if (round == 0)
            fake_client_free(one);
    }
    fake_client_free(two);
    registry_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exclusive_gives_its_slot_back),
        cmocka_unit_test(test_single_writer_passes_on_the_pen),
        cmocka_unit_test(test_go_answers_what_info_promised),
        cmocka_unit_test(test_a_changed_setting_lets_the_connected_stay),
        cmocka_unit_test(test_evict_ends_those_not_admitted),
        cmocka_unit_test(test_a_stubborn_client_is_ended_hard),
        cmocka_unit_test(test_safe_removal_is_busy),
        cmocka_unit_test(test_removal_with_drain_and_hard),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_bounds_of_daemon_and_listener),
        cmocka_unit_test(test_handshakes_give_way),
        cmocka_unit_test(test_the_known_give_way),
        cmocka_unit_test(test_giving_way_is_bounded),
        cmocka_unit_test(test_counters_are_folded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
