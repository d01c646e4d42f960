/* Groups of users in allow lists: what is looked up, what a look-up that fails means, and that
 * eviction and grants that end see the groups of those who were connected before. */
#include "daemon/core/blocking.h"
#include "daemon/core/expiry.h"
#include "tests/unit/comes.h"
#include "tests/unit/registry_world.h"
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdatomic.h>

/* --- a user database: uid 1000 is in its first `groups` groups, g5000, g5001... --- */

static struct {
    unsigned groups;
    size_t user_bytes, group_bytes; /* ERANGE for smaller buffers */
    int user_error, group_error;
    bool hangs; /* until `answers` is posted */
    sem_t answers;
    _Atomic unsigned asked;
} database;

static void database_reset(unsigned groups)
{
    database.groups = groups;
    database.user_bytes = database.group_bytes = 0;
    database.user_error = database.group_error = 0;
    database.hangs = false;
    database.asked = 0;
}

int __wrap_getpwuid_r(uid_t uid, struct passwd *entry, char *buffer, size_t size,
                      struct passwd **ret_found);
int __wrap_getgrgid_r(gid_t gid, struct group *entry, char *buffer, size_t size,
                      struct group **ret_found);
int __wrap_getgrouplist(const char *user, gid_t gid, gid_t *groups, int *count);

int __wrap_getpwuid_r(uid_t uid, struct passwd *entry, char *buffer, size_t size,
                      struct passwd **ret_found)
{
    *ret_found = NULL;
    database.asked++;
    if (database.hangs)
        comes(&database.answers);
    if (database.user_error || size < database.user_bytes)
        return database.user_error ? database.user_error : ERANGE;
    if (uid != 1000)
        return 0;
    g_strlcpy(buffer, "alice", size);
    *entry = (struct passwd){.pw_name = buffer, .pw_uid = uid, .pw_gid = 5000};
    *ret_found = entry;
    return 0;
}

int __wrap_getgrgid_r(gid_t gid, struct group *entry, char *buffer, size_t size,
                      struct group **ret_found)
{
    *ret_found = NULL;
    if (database.group_error || size < database.group_bytes)
        return database.group_error ? database.group_error : ERANGE;
    g_snprintf(buffer, size, "g%u", gid);
    *entry = (struct group){.gr_name = buffer, .gr_gid = gid};
    *ret_found = entry;
    return 0;
}

int __wrap_getgrouplist(const char *user, gid_t gid, gid_t *groups, int *count)
{
    assert_string_equal(user, "alice");
    int room = *count;
    *count = (int)database.groups;
    for (int i = 0; i < MIN(room, *count); i++)
        groups[i] = gid + (gid_t)i;
    return *count <= room ? *count : -1;
}

/* --- look-ups --- */

static AllowMatch in_group(uid_t uid, const char *group)
{
    AllowGroups *groups = allow_groups_look_up(uid);
    AllowMatch match = allow_groups_match(groups, group);
    allow_groups_unref(groups);
    return match;
}

static void test_what_is_known(void **state)
{
    database_reset(2);
    assert_int_equal(in_group(1000, "g5000"), ALLOW_YES);
    assert_int_equal(in_group(1000, "5001"), ALLOW_YES);
    assert_int_equal(in_group(1000, "g5002"), ALLOW_NO);
    assert_int_equal(in_group(1001, "g5000"), ALLOW_NO); /* no such user: in no group */
    assert_int_equal(allow_groups_match(NULL, "g5000"), ALLOW_UNKNOWN);
}

/* However long entries and lists are. */
static void test_buffers_grow(void **state)
{
    database_reset(3000);
    database.user_bytes = 100000;
    database.group_bytes = 1000000;
    assert_int_equal(in_group(1000, "g5000"), ALLOW_YES);
    assert_int_equal(in_group(1000, "g7999"), ALLOW_YES);
    assert_int_equal(in_group(1000, "7999"), ALLOW_YES);
    assert_int_equal(in_group(1000, "g8000"), ALLOW_NO);
}

static void test_what_is_not_known(void **state)
{
    database_reset(2);
    database.user_error = EIO;
    assert_int_equal(in_group(1000, "g5000"), ALLOW_UNKNOWN);
    database_reset(2);
    database.user_bytes = SIZE_MAX;
    assert_int_equal(in_group(1000, "g5000"), ALLOW_UNKNOWN);
    database_reset(2);
    database.group_error = EIO;
    assert_int_equal(in_group(1000, "5001"), ALLOW_YES); /* without its name */
    assert_int_equal(in_group(1000, "g5001"), ALLOW_UNKNOWN);
    database_reset(200000);
    assert_int_equal(in_group(1000, "g5000"), ALLOW_YES);
    assert_int_equal(in_group(1000, "g204999"), ALLOW_UNKNOWN);
}

/* --- lists --- */

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static AllowList *new_list(const char *const *entries)
{
    size_t index = 0;
    char *reason = NULL;
    AllowList *list = allow_list_new(entries, &index, &reason);
    if (!list)
        fail_msg("entry %zu: %s", index, reason);
    return list;
}

/* Without the groups of unix:1000: the least and the most that it might be allowed. */
static void check_unknown(const char *const *entries, AllowRight least, AllowRight most)
{
    g_autoptr(AllowList) list = new_list(entries);
    g_autoptr(GPtrArray) alice =
        g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
    g_ptr_array_add(alice, allow_identity_new("unix:1000"));
    assert_int_equal(allow_list_match(list, alice), least);
    assert_int_equal(allow_list_may_match_at(list, alice, 0), most);
}

static void test_doubt_refuses(void **state)
{
    check_unknown(LIST("unix:@g"), ALLOW_NOTHING, ALLOW_WRITE);
    check_unknown(LIST("!unix:@g", "unix:1000"), ALLOW_NOTHING, ALLOW_WRITE);
    check_unknown(LIST("!unix:@g", "ro:unix:1000"), ALLOW_NOTHING, ALLOW_READ);
    check_unknown(LIST("ro:unix:@g", "unix:1000"), ALLOW_READ, ALLOW_WRITE);
    check_unknown(LIST("unix:@g", "ro:unix:1000"), ALLOW_READ, ALLOW_WRITE);
    check_unknown(LIST("unix:@g", "unix:1000"), ALLOW_WRITE, ALLOW_WRITE);
    check_unknown(LIST("!unix:@g", "!unix:1000"), ALLOW_NOTHING, ALLOW_NOTHING);
    /* What stands before it decides as ever. */
    check_unknown(LIST("unix:1000", "!unix:@g"), ALLOW_WRITE, ALLOW_WRITE);
    check_unknown(LIST("!unix:@g", "psk:bob"), ALLOW_NOTHING, ALLOW_NOTHING);
}

static void test_others_are_in_no_group(void **state)
{
    g_autoptr(AllowList) list = new_list(LIST("!unix:@g", "psk:bob"));
    g_autoptr(GPtrArray) bob = g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
    g_ptr_array_add(bob, allow_identity_new("psk:bob"));
    assert_int_equal(allow_list_match(list, bob), ALLOW_WRITE);
}

/* --- those who are connected --- */

static void set_allow(RegistryWorld *world, const char *const *entries, bool evict)
{
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    g_clear_pointer(&config->allow, allow_list_unref);
    config->allow = new_list(entries);
    if (!txn_set_export(txn, config, evict, &error))
        fail_msg("%s", error->message);
    registry_world_commit(txn);
}

static RegistryWorld *new_world(void)
{
    RegistryWorld *world = registry_world_new();
    registry_world_add_disk(world, "d");
    registry_world_add_export(world, "e", "d", false, SHARING_SHARED);
    return world;
}

static FakeClient *connected(RegistryWorld *world, const char *identity)
{
    FakeClient *fake = fake_client_new(world, identity);
    assert_int_equal(fake_client_attach(fake, "e"), ADMIT_OK);
    return fake;
}

/* Connected before any list has had a group; then one list is set. */
static void check_evicted(const char *const *entries, bool expected)
{
    RegistryWorld *world = new_world();
    FakeClient *alice = connected(world, "unix:1000"), *bob = connected(world, "unix:1001");
    set_allow(world, entries, true);
    assert_int_equal(fake_client_was_stopped(alice), expected);
    assert_int_equal(fake_client_was_stopped(bob), true);
    fake_client_free(alice);
    fake_client_free(bob);
    registry_world_free(world);
}

static void test_evict_sees_groups(void **state)
{
    database_reset(2);
    check_evicted(LIST("unix:@g5001"), false);
    check_evicted(LIST("!unix:@g5001", "unix:1000"), true);
    check_evicted(LIST("!unix:@g5002", "unix:1000"), false);
    check_evicted(LIST("ro:unix:@g5001", "unix:1000"), true); /* it writes */
    database.user_error = EIO;
    check_evicted(LIST("unix:@g5001"), true);
    check_evicted(LIST("!unix:@g5002", "unix:1000"), true);
    check_evicted(LIST("unix:1000", "!unix:@g5002"), false);
}

/* As they are now: who has left the group is ended, who has come to it is not. */
static void test_evict_looks_anew(void **state)
{
    database_reset(1);
    RegistryWorld *world = new_world();
    set_allow(world, LIST("unix:@g5000"), false);
    FakeClient *alice = connected(world, "unix:1000");
    database.groups = 2;
    set_allow(world, LIST("unix:@g5001"), true);
    assert_false(fake_client_was_stopped(alice));
    database.groups = 1;
    set_allow(world, LIST("unix:@g5001"), true);
    assert_true(fake_client_was_stopped(alice));
    fake_client_free(alice);
    registry_world_free(world);
}

/* A database that does not answer holds the change up for a while, and then counts as unknown. */
static void test_evict_does_not_wait_for_ever(void **state)
{
    database_reset(2);
    RegistryWorld *world = new_world();
    FakeClient *alice = connected(world, "unix:1000");
    sem_init(&database.answers, 0, 0);
    database.hangs = true;
    GError *error = NULL;
    Txn *txn = txn_begin(world->registry, g_get_monotonic_time() + G_USEC_PER_SEC);
    g_autoptr(ExportConfig) config = export_config_copy(txn_find_export(txn, "e"));
    config->allow = new_list(LIST("unix:@g5001"));
    assert_true(txn_set_export(txn, config, true, &error));
    registry_world_commit(txn);
    /* It hangs still. Who had waited for it to answer would have found her in the group. */
    assert_true(blocking_left_behind());
    assert_true(fake_client_was_stopped(alice));
    sem_post(&database.answers);
    fake_client_free(alice);
    registry_world_free(world);
    assert_false(blocking_left_behind_until(g_get_monotonic_time() + COMES_USEC));
}

static void test_many_clients_of_one_user(void **state)
{
    database_reset(2);
    RegistryWorld *world = new_world();
    FakeClient *clients[5];
    for (size_t i = 0; i < G_N_ELEMENTS(clients); i++)
        clients[i] = connected(world, "unix:1000");
    assert_int_equal(database.asked, 0); /* no list wants groups */
    set_allow(world, LIST("unix:@g5001"), true);
    assert_int_equal(database.asked, 1);
    for (size_t i = 0; i < G_N_ELEMENTS(clients); i++) {
        assert_false(fake_client_was_stopped(clients[i]));
        fake_client_free(clients[i]);
    }
    registry_world_free(world);
}

/* --- grants that end --- */

#define END      (INT64_C(4102444800) * G_USEC_PER_SEC)
#define END_TEXT "until:2100-01-01T00:00:00Z:"

/* A client that was there first, and a grant to its group that ends. */
static void check_ended(const char *const *entries, bool expected)
{
    RegistryWorld *world = new_world();
    FakeClient *alice = connected(world, "unix:1000");
    set_allow(world, entries, false);
    expiry_run(world->registry, END - 1);
    assert_false(fake_client_was_stopped(alice));
    unsigned asked = database.asked;
    expiry_run(world->registry, END);
    assert_int_equal(fake_client_was_stopped(alice), expected);
    assert_int_equal(database.asked, asked); /* the timer runs on the main thread */
    fake_client_free(alice);
    registry_world_free(world);
}

static void test_grants_to_groups_end(void **state)
{
    database_reset(2);
    check_ended(LIST(END_TEXT "unix:@g5001"), true);
    check_ended(LIST(END_TEXT "unix:@g5001", "unix:@g5000"), false);
    check_ended(LIST(END_TEXT "unix:1000", "unix:@g5001"), false);
    check_ended(LIST(END_TEXT "unix:1000", "!unix:@g5001", "unix:1000"), true);
    check_ended(LIST(END_TEXT "unix:@g5002"), false); /* it was let in by an earlier setting */
    database.user_error = EIO;
    check_ended(LIST(END_TEXT "unix:@g5001"), true);
    check_ended(LIST(END_TEXT "unix:@g5001", "unix:1000"), false);
    check_ended(LIST(END_TEXT "unix:1000", "!unix:@g5002", "unix:1000"), true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_known),
        cmocka_unit_test(test_buffers_grow),
        cmocka_unit_test(test_what_is_not_known),
        cmocka_unit_test(test_doubt_refuses),
        cmocka_unit_test(test_others_are_in_no_group),
        cmocka_unit_test(test_evict_sees_groups),
        cmocka_unit_test(test_evict_looks_anew),
        cmocka_unit_test(test_evict_does_not_wait_for_ever),
        cmocka_unit_test(test_many_clients_of_one_user),
        cmocka_unit_test(test_grants_to_groups_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
