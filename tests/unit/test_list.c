/* Listing exports, which anybody may ask for, over and over: it sorts nothing, looks at each once,
 * and holds the registry's lock for a few at a time only. */
#include "tests/unit/registry_world.h"

#define EXPORTS 1000
#define PAGE    4096 /* bytes, like those of the handshake but smaller */
#define AT_ONCE 64   /* looked at under the lock */

/* --- counting --- */

static unsigned sorts, looked_at, under_this_lock, most_under_lock;

AllowRight __real_allow_list_match(const AllowList *list, const GPtrArray *identities);
AllowRight __wrap_allow_list_match(const AllowList *list, const GPtrArray *identities);
void __real_registry_lock(Registry *registry);
void __wrap_registry_lock(Registry *registry);
void __real_g_ptr_array_sort(GPtrArray *array, GCompareFunc compare);
void __wrap_g_ptr_array_sort(GPtrArray *array, GCompareFunc compare);

AllowRight __wrap_allow_list_match(const AllowList *list, const GPtrArray *identities)
{
    looked_at++;
    under_this_lock++;
    most_under_lock = MAX(most_under_lock, under_this_lock);
    return __real_allow_list_match(list, identities);
}

void __wrap_registry_lock(Registry *registry)
{
    __real_registry_lock(registry);
    under_this_lock = 0;
}

void __wrap_g_ptr_array_sort(GPtrArray *array, GCompareFunc compare)
{
    sorts++;
    __real_g_ptr_array_sort(array, compare);
}

/* --- a registry of many exports, e0000 to e0999; of each `every` one is open to all --- */

static void stage(Txn *txn, unsigned number, bool hidden)
{
    GError *error = NULL;
    size_t index;
    char *reason;
    const char *const nobody[] = {NULL};
    g_autofree char *name = g_strdup_printf("e%04u", number);
    g_autoptr(ExportConfig) config = export_config_new(name, "d");
    config->sharing = SHARING_SHARED;
    config->allow = hidden ? allow_list_new(nobody, &index, &reason) : NULL;
    if (!txn_add_export(txn, config, &error))
        fail_msg("%s", error->message);
}

static RegistryWorld *world_with(unsigned every)
{
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    Txn *txn = registry_world_begin(world);
    /* Not in order: 7 and the number of exports have no common divisor. */
    for (unsigned i = 0; i < EXPORTS; i++)
        stage(txn, i * 7 % EXPORTS, every == 0 || i * 7 % EXPORTS % every != 0);
    registry_world_commit(txn);
    return world;
}

/* All that a client is told, page by page; the number of pages. */
static unsigned list_all(FakeClient *client, GPtrArray *names)
{
    unsigned pages = 0;
    for (bool more = true; more; pages++) {
        const char *after = names->len > 0 ? names->pdata[names->len - 1] : NULL;
        GString *page = client_list_exports(client->client, after, PAGE);
        more = page->len > 0;
        for (const char *p = page->str; p < page->str + page->len;) {
            g_ptr_array_add(names, g_strdup(p));
            p += strlen(p) + 1;
            p += strlen(p) + 1;
        }
        g_string_free(page, TRUE);
    }
    return pages;
}

static void check_list(unsigned every)
{
    RegistryWorld *world = world_with(every);
    FakeClient *client = fake_client_new(world, "unix:1000");
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    sorts = looked_at = most_under_lock = 0;
    unsigned pages = list_all(client, names);
    assert_int_equal(sorts, 0);
    /* The last page finds that there are no more, behind the last that it may see. */
    assert_in_range(looked_at, EXPORTS, EXPORTS + every);
    assert_in_range(most_under_lock, 1, AT_ONCE);
    assert_int_equal(names->len, every ? (EXPORTS + every - 1) / every : 0);
    assert_true(pages > names->len * 7 / (PAGE + 300));
    for (unsigned i = 0; i < names->len; i++) {
        g_autofree char *expected = g_strdup_printf("e%04u", i * every);
        assert_string_equal(names->pdata[i], expected);
    }
    fake_client_free(client);
    registry_world_free(world);
}

static void test_all_are_seen(void **state)
{
    check_list(1);
}

static void test_some_are_hidden(void **state)
{
    check_list(3);
}

/* Nothing to be told, and as much to look at. */
static void test_all_are_hidden(void **state)
{
    check_list(0);
}

static void check_order(RegistryWorld *world, const char *expected)
{
    g_autoptr(GString) names = g_string_new(NULL);
    registry_lock(world->registry);
    g_autoptr(GPtrArray) exports = registry_list_exports(world->registry);
    for (guint i = 0; i < exports->len; i++)
        g_string_append(names, ((const Export *)exports->pdata[i])->config->name);
    assert_int_equal(g_hash_table_size(world->registry->exports), exports->len);
    registry_unlock(world->registry);
    assert_string_equal(names->str, expected);
}

/* The order is kept through every change. */
static void test_order_is_kept(void **state)
{
    GError *error = NULL;
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    for (const char *name = "mcxahz"; *name; name++) {
        char text[] = {*name, '\0'};
        registry_world_add_export(world, text, "d", true, SHARING_EXCLUSIVE);
    }
    check_order(world, "achmxz");
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "h"));
    config->sharing = SHARING_SHARED;
    assert_true(txn_set_export(txn, config, false, &error));
    assert_true(txn_remove_export(txn, "a", REMOVE_SAFE, &error));
    assert_true(txn_remove_export(txn, "x", REMOVE_SAFE, &error));
    g_autoptr(ExportConfig) again = export_config_new("x", "d");
    again->read_only = true;
    assert_true(txn_add_export(txn, again, &error));
    registry_world_commit(txn);
    check_order(world, "chmxz");
    txn = registry_world_begin(world);
    assert_true(txn_remove_export(txn, "h", REMOVE_SAFE, &error));
    registry_world_commit(txn);
    check_order(world, "cmxz");
    registry_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_are_seen),
        cmocka_unit_test(test_some_are_hidden),
        cmocka_unit_test(test_all_are_hidden),
        cmocka_unit_test(test_order_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
