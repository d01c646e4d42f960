/* A client enters TLS by the material that is in force at that moment, or not at all. */
#include "daemon/core/credentials.h"
#include "tests/unit/registry_world.h"

typedef struct {
    RegistryWorld *world;
    char *path;
    FakeClient *fake;
} Place;

static void begin(Place *place)
{
    GError *error = NULL;
    place->world = registry_world_new();
    Registry *registry = place->world->registry;
    place->path = g_build_filename(place->world->folder, "keys.psk", NULL);
    assert_true(g_file_set_contents(place->path, "bob:0011\n", -1, NULL));
    TlsSource source = {.kind = TLS_PSK, .keys = place->path};
    if (!credentials_add(registry, "c", &source, false, false, NULL, &error))
        fail_msg("%s", error->message);
    registry_lock(registry);
    ListenerEntry *listener = g_hash_table_lookup(registry->listeners, "l");
    listener->credential = g_strdup("c");
    listener->tls_mode = LISTENER_TLS_REQUIRE;
    registry_unlock(registry);
    place->fake = fake_client_new(place->world, "unix:1000");
}

static void end(Place *place)
{
    fake_client_free(place->fake);
    g_free(place->path);
    registry_world_free(place->world);
}

static void test_the_material_that_it_passed(void **state)
{
    Place place;
    begin(&place);
    Client *client = place.fake->client;
    g_autoptr(TlsMaterial) material = client_tls_material(client);
    assert_non_null(material);
    assert_true(client_enter_tls(client, material, "psk:bob"));
    assert_true(client->tls);
    assert_string_equal(client_identity(client), "psk:bob");
    end(&place);
}

/* Who is told to go by its identity after a reload is found, or does not get in. */
static void test_material_that_is_no_longer_in_force(void **state)
{
    Place place;
    begin(&place);
    Client *client = place.fake->client;
    g_autoptr(TlsMaterial) before = client_tls_material(client);
    assert_true(credentials_set(place.world->registry, "c", NULL, NULL, NULL, NULL));
    assert_false(client_enter_tls(client, before, "psk:bob"));
    assert_false(client->tls);
    assert_string_equal(client_identity(client), "unix:1000");
    g_autoptr(TlsMaterial) now = client_tls_material(client);
    assert_ptr_not_equal(now, before);
    assert_true(client_enter_tls(client, now, "psk:bob"));
    assert_string_equal(client_identity(client), "psk:bob");
    end(&place);
}

static void test_a_reload_that_fails(void **state)
{
    Place place;
    begin(&place);
    Client *client = place.fake->client;
    g_autoptr(TlsMaterial) before = client_tls_material(client);
    assert_true(g_file_set_contents(place.path, "garbage\n", -1, NULL));
    assert_false(credentials_set(place.world->registry, "c", NULL, NULL, NULL, NULL));
    assert_true(client_enter_tls(client, before, "psk:bob"));
    end(&place);
}

static void test_a_credential_that_is_gone(void **state)
{
    Place place;
    begin(&place);
    Registry *registry = place.world->registry;
    Client *client = place.fake->client;
    g_autoptr(TlsMaterial) before = client_tls_material(client);
    /* The listener's has been removed, with it; the client came by it all the same. */
    registry_lock(registry);
    g_hash_table_remove(registry->credentials, "c");
    registry_unlock(registry);
    assert_null(client_tls_material(client));
    assert_false(client_enter_tls(client, before, "psk:bob"));
    end(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_material_that_it_passed),
        cmocka_unit_test(test_material_that_is_no_longer_in_force),
        cmocka_unit_test(test_a_reload_that_fails),
        cmocka_unit_test(test_a_credential_that_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
