/* Listeners as the registry has them, over sockets that are make-believe. */
#include "daemon/core/listeners.h"
#include "tests/unit/registry_world.h"

typedef struct {
    RegistryWorld *world;
    unsigned open;           /* sockets */
    void (*meanwhile)(void); /* happens while a socket is opened; NULL: nothing */
} Place;

static Place place;

static gpointer start(gpointer server, const char *name, const char *address, GError **error)
{
    if (place.meanwhile)
        place.meanwhile();
    place.open++;
    return g_strdup(address);
}

static const char *address_of(gpointer socket)
{
    return socket;
}

static void stop(gpointer socket)
{
    if (socket)
        place.open--;
    g_free(socket);
}

static bool check(const char *address, GError **error)
{
    return true;
}

static int setup(void **state)
{
    static const ListenerOps ops = {start, address_of, stop, check};
    place = (Place){.world = registry_world_new()};
    listeners_set_ops(place.world->registry, &ops, NULL);
    return 0;
}

static int teardown(void **state)
{
    listeners_stop_all(place.world->registry);
    registry_world_free(place.world);
    return 0;
}

static ListenerEntry *entry_new(void)
{
    ListenerEntry *entry = listener_entry_new("lan", "tcp:127.0.0.1:1");
    entry->persistent = true;
    return entry;
}

static bool is_known(void)
{
    registry_lock(place.world->registry);
    bool known = registry_find_listener(place.world->registry, "lan") != NULL;
    registry_unlock(place.world->registry);
    return known;
}

static void stop_daemon(void)
{
    registry_begin_shutdown(place.world->registry);
    listeners_stop_all(place.world->registry);
}

/* Names may take long to resolve. What listens then is nobody's to stop any more. */
static void test_added_while_the_daemon_stops(void **state)
{
    GError *error = NULL;
    g_autoptr(ListenerEntry) entry = entry_new();
    place.meanwhile = stop_daemon;
    expect_error(listeners_add(place.world->registry, entry, false, &error), error,
                 ERROR_INVALID_STATE, NULL);
    assert_int_equal(place.open, 0);
    assert_false(is_known());
    g_autoptr(StoreConfig) config = store_load_config(place.world->store, &error);
    assert_int_equal(config->listeners->len, 0);
}

static void test_added_and_removed(void **state)
{
    GError *error = NULL;
    g_autoptr(ListenerEntry) entry = entry_new();
    assert_true(listeners_add(place.world->registry, entry, true, &error));
    assert_int_equal(place.open, 0);
    assert_true(listeners_add(place.world->registry, entry, false, &error));
    assert_int_equal(place.open, 1);
    expect_error(listeners_add(place.world->registry, entry, false, &error), error,
                 ERROR_ALREADY_EXISTS, "/params/name");
    assert_true(listeners_remove(place.world->registry, "lan", false, &error));
    assert_int_equal(place.open, 0);
    assert_false(is_known());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_added_while_the_daemon_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_added_and_removed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
