/* Allow lists and identities: every rule of what matches, and what is refused as malformed. */
#include "daemon/core/allow.h"
#include "tests/unit/check.h"
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

static AllowRight match_list(const char *const *entries, const char *const *identities)
{
    size_t index = 0;
    char *reason = NULL;
    g_autoptr(AllowList) list = allow_list_new(entries, &index, &reason);
    if (!list)
        fail_msg("entry %zu: %s", index, reason);
    g_autoptr(GPtrArray) set = g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
    for (size_t i = 0; identities[i]; i++) {
        AllowIdentity *identity = allow_identity_new(identities[i]);
        if (identity) {
            allow_identity_resolve(identity);
            g_ptr_array_add(set, identity);
        }
    }
    return allow_list_match(list, set);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static bool matches(const char *entry, const char *identity)
{
    return match_list(LIST(entry), LIST(identity)) == ALLOW_WRITE;
}

static char *reason_of(const char *entry)
{
    size_t index = 99;
    char *reason = NULL;
    g_autoptr(AllowList) list = allow_list_new(LIST("psk:fine", entry), &index, &reason);
    assert_true((list == NULL) == (reason != NULL));
    if (reason)
        assert_int_equal(index, 1);
    return reason;
}

static void test_absent_and_empty(void **state)
{
    const char *const none[] = {NULL};
    g_autoptr(GPtrArray) nobody = g_ptr_array_new();
    assert_int_equal(allow_list_match(NULL, nobody), ALLOW_WRITE);
    assert_int_equal(match_list(none, LIST("unix:0", "ip:127.0.0.1")), ALLOW_NOTHING);
    assert_int_equal(match_list(LIST("unix:1"), none), ALLOW_NOTHING);
}

static void test_first_match_decides(void **state)
{
    assert_int_equal(match_list(LIST("!psk:bob", "psk:bob"), LIST("psk:bob")), ALLOW_NOTHING);
    assert_int_equal(match_list(LIST("psk:bob", "!psk:bob"), LIST("psk:bob")), ALLOW_WRITE);
    assert_int_equal(match_list(LIST("ro:ip:10.0.0.0/8", "ip:10.1.0.0/16"), LIST("ip:10.1.0.1")),
                     ALLOW_READ);
    assert_int_equal(match_list(LIST("ip:10.1.0.0/16", "ro:ip:10.0.0.0/8"), LIST("ip:10.1.0.1")),
                     ALLOW_WRITE);
    /* The order is the list's, not that of the identities. */
    assert_int_equal(match_list(LIST("!ip:10.0.0.0/8", "psk:bob"), LIST("psk:bob", "ip:10.0.0.1")),
                     ALLOW_NOTHING);
    assert_int_equal(match_list(LIST("psk:bob", "!ip:10.0.0.0/8"), LIST("ip:10.0.0.1", "psk:bob")),
                     ALLOW_WRITE);
    assert_int_equal(match_list(LIST("psk:alice", "psk:carol"), LIST("psk:bob")), ALLOW_NOTHING);
    assert_int_equal(match_list(LIST("!psk:alice"), LIST("psk:bob")), ALLOW_NOTHING);
}

static void test_psk_is_literal(void **state)
{
    assert_true(matches("psk:bob", "psk:bob"));
    assert_false(matches("psk:bo", "psk:bob"));
    assert_false(matches("psk:bob", "psk:Bob"));
    assert_false(matches("psk:*", "psk:bob"));
    assert_true(matches("psk:*", "psk:*"));
    assert_true(matches("psk:ro:bob", "psk:ro:bob"));
    assert_false(matches("psk:1000", "unix:1000"));
}

static void test_unix(void **state)
{
    assert_true(matches("unix:1000", "unix:1000"));
    assert_false(matches("unix:100", "unix:1000"));
    assert_true(matches("unix:4294967294", "unix:4294967294"));

    uid_t uid = getuid();
    gid_t gid = getgid();
    struct passwd *user = getpwuid(uid);
    if (!user)
        skip(); /* this uid is in no user database, so in no group either */
    g_autofree char *identity = g_strdup_printf("unix:%u", (unsigned)uid);
    g_autofree char *by_number = g_strdup_printf("unix:@%u", (unsigned)user->pw_gid);
    assert_true(matches(by_number, identity));
    assert_false(matches("unix:@no-such-group-here", identity));
    struct group *group = getgrgid(user->pw_gid);
    if (group) {
        g_autofree char *by_name = g_strdup_printf("unix:@%s", group->gr_name);
        assert_true(matches(by_name, identity));
        g_autofree char *longer = g_strdup_printf("unix:@%sx", group->gr_name);
        assert_false(matches(longer, identity));
    }
    (void)gid;
}

static void test_groups_are_asked_for(void **state)
{
    size_t index;
    char *reason;
    g_autoptr(AllowList) with = allow_list_new(LIST("unix:1", "!unix:@kvm"), &index, &reason);
    g_autoptr(AllowList) without = allow_list_new(LIST("unix:1"), &index, &reason);
    assert_true(allow_list_wants_groups(with));
    assert_false(allow_list_wants_groups(without));
}

static void test_ip(void **state)
{
    assert_true(matches("ip:192.0.2.1", "ip:192.0.2.1"));
    assert_false(matches("ip:192.0.2.1", "ip:192.0.2.10"));
    assert_true(matches("ip:192.0.2.0/24", "ip:192.0.2.255"));
    assert_false(matches("ip:192.0.2.0/24", "ip:192.0.3.0"));
    assert_true(matches("ip:192.0.2.128/25", "ip:192.0.2.129"));
    assert_false(matches("ip:192.0.2.128/25", "ip:192.0.2.127"));
    assert_true(
        matches("ip:192.0.2.77/24", "ip:192.0.2.1")); /* bits behind the prefix: no matter */
    assert_true(matches("ip:0.0.0.0/0", "ip:203.0.113.9"));
    assert_false(matches("ip:0.0.0.0/0", "ip:2001:db8::1"));
    assert_true(matches("ip:::/0", "ip:2001:db8::1"));
    assert_true(matches("ip:2001:db8::/32", "ip:2001:db8:ffff::1"));
    assert_false(matches("ip:2001:db8::/33", "ip:2001:db8:ffff::1"));
    assert_true(matches("ip:2001:DB8::1", "ip:2001:db8:0::1"));
    assert_true(matches("ip:fe80::/10", "ip:fe80::1%eth0"));
    /* A v4 client on a dual-stack socket. */
    assert_true(matches("ip:192.0.2.0/24", "ip:::ffff:192.0.2.7"));
    assert_true(matches("ip:::ffff:192.0.2.0/120", "ip:192.0.2.7"));
    assert_false(matches("ip:192.0.2.1", "unix:1000"));
}

static void test_x509_attributes(void **state)
{
    const char *alice = "x509:CN=alice,OU=Ops,OU=Storage,O=Acme,C=DE";
    assert_true(matches("x509:CN=alice,O=Acme", alice));
    assert_true(matches("x509:O=Acme,CN=alice", alice));
    assert_true(matches("x509:O=Acme", alice));
    assert_true(matches("x509:cn=alice", alice));
    assert_false(matches("x509:CN=Alice", alice));
    assert_false(matches("x509:CN=alic", alice));
    assert_false(matches("x509:CN=alice,O=Other", alice));
    assert_false(matches("x509:CN=Acme", alice));
    assert_true(matches("x509:OU=Ops,OU=Storage", alice));
    assert_false(matches("x509:OU=Ops,OU=Backup", alice));
    assert_true(matches("x509: CN = alice , O=Acme", "x509:CN=alice, O=Acme"));
    assert_true(matches("x509:CN=alice", "x509:CN=alice+UID=7,O=Acme"));
    assert_true(matches("x509:UID=7", "x509:CN=alice+UID=7,O=Acme"));
    assert_true(matches("x509:2.5.4.3=alice", "x509:2.5.4.3=alice"));
    assert_false(matches("x509:CN=alice", "psk:CN=alice"));
}

static void test_x509_wildcards_stay_in_one_value(void **state)
{
    const char *name = "x509:CN=alice,O=Acme";
    assert_true(matches("x509:CN=*", name));
    assert_true(matches("x509:CN=a*e", name));
    assert_true(matches("x509:CN=al?ce", name));
    assert_true(matches("x509:CN=*l*c*", name));
    assert_false(matches("x509:CN=?", name));
    assert_false(matches("x509:CN=al*x", name));
    assert_false(matches("x509:CN=a*Acme", name));
    assert_false(matches("x509:CN=*O=Acme", name));
    /* The comma of an escaped value is inside the value. */
    assert_true(matches("x509:O=Acme*Inc", "x509:CN=x,O=Acme\\, Inc"));
    assert_false(matches("x509:CN=m*y,O=Acme", "x509:CN=mallory\\,O=Acme,O=Evil"));
    assert_false(matches("x509:O=Acme", "x509:CN=mallory\\,O=Acme,O=Evil"));
    assert_false(matches("x509:O=Acme", "x509:CN=mallory\\2CO=Acme"));
    assert_true(matches("x509:CN=mallory\\,O=Acme", "x509:CN=mallory\\2cO\\=Acme"));
    /* Wildcards in a name are plain characters, escaped ones in an entry too. */
    assert_false(matches("x509:CN=alice", "x509:CN=*"));
    assert_true(matches("x509:CN=\\*", "x509:CN=*"));
    assert_false(matches("x509:CN=\\*", name));
    assert_true(matches("x509:CN=J?rg", "x509:CN=J\303\266rg"));
    assert_true(matches("x509:CN=J\303\266rg", "x509:CN=J\\C3\\B6rg"));
    assert_true(matches("x509:CN=", "x509:CN="));
    assert_true(matches("x509:CN=*", "x509:CN="));
    assert_false(matches("x509:CN=?", "x509:CN="));
    assert_true(matches("x509:CN=x\\ ", "x509:CN=x\\20,O=y"));
    assert_false(matches("x509:CN=x\\ ", "x509:CN=x ,O=y"));
}

static void test_malformed_entries(void **state)
{
    static const char *const bad[] = {
        "",
        "alice",
        "x509:",
        "x509:alice",
        "x509:=alice",
        "x509:CN=a,",
        "psk:",
        "unix:",
        "unix:@",
        "unix:root",
        "unix:-1",
        "unix:4294967295",
        "ip:",
        "ip:localhost",
        "ip:1.2.3",
        "ip:1.2.3.4/33",
        "ip:1.2.3.4/",
        "ip:1.2.3.4/-1",
        "ip:::1/129",
        "ip:fe80::1%eth0",
        "ro:!psk:x",
        "!ro:psk:x",
        "ro:",
        "!",
        "X509:CN=a",
        "x509:CN=a\\",
        "x509:CN=a\\zb",
        "x509:CN=a;O=b",
        "x509:C N=a",
        "ro:ro:psk:x",
        "psk:\377",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *reason = reason_of(bad[i]);
        if (!reason)
            fail_msg("'%s' was taken", bad[i]);
    }
    g_autofree char *longest = g_strnfill(ALLOW_MAX_LENGTH + 1, 'x');
    memcpy(longest, "psk:", 4);
    g_autofree char *reason = reason_of(longest);
    assert_non_null(reason);
    longest[ALLOW_MAX_LENGTH] = '\0';
    assert_null(reason_of(longest));
}

static void test_malformed_identities_match_nothing(void **state)
{
    static const char *const bad[] = {"",        "x509:", "x509:alice", "unix:me",
                                      "ip:here", "psk:",  "root"};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_null(allow_identity_new(bad[i]));
}

static void test_entries_are_kept_as_given(void **state)
{
    size_t index;
    char *reason;
    const char *const *given = LIST("ro:ip:192.0.2.77/24", "!x509: CN = a");
    g_autoptr(AllowList) list = allow_list_new(given, &index, &reason);
    assert_true(g_strv_equal(allow_list_entries(list), given));
}

/* 2026-12-01T00:00:00Z */
#define DECEMBER (INT64_C(1796083200) * G_USEC_PER_SEC)

static AllowList *new_list(const char *const *entries)
{
    size_t index = 0;
    char *reason = NULL;
    AllowList *list = allow_list_new(entries, &index, &reason);
    if (!list)
        fail_msg("entry %zu: %s", index, reason);
    return list;
}

static void test_an_entry_ends(void **state)
{
    g_autoptr(AllowList) list = new_list(LIST("until:2026-12-01T00:00:00Z:!psk:eve",
                                              "until:2026-11-30T23:59:59Z:ro:psk:bob", "psk:bob"));
    g_autoptr(GPtrArray) bob = g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
    g_ptr_array_add(bob, allow_identity_new("psk:bob"));
    /* Up to the very moment, and then it is as if it were not there. */
    assert_int_equal(allow_list_match_at(list, bob, DECEMBER - G_USEC_PER_SEC - 1), ALLOW_READ);
    assert_int_equal(allow_list_match_at(list, bob, DECEMBER - G_USEC_PER_SEC), ALLOW_WRITE);
    assert_false(allow_list_has_ended(list, 0, DECEMBER - 1));
    assert_true(allow_list_has_ended(list, 0, DECEMBER));
    assert_true(allow_list_has_ended(list, 1, DECEMBER - G_USEC_PER_SEC));
    assert_false(allow_list_has_ended(list, 2, INT64_MAX - 1));
    assert_true(allow_list_next_end(list, 0) == DECEMBER - G_USEC_PER_SEC);
    assert_true(allow_list_next_end(list, DECEMBER - G_USEC_PER_SEC) == DECEMBER);
    assert_true(allow_list_next_end(list, DECEMBER) == ALLOW_FOR_EVER);
    assert_string_equal(allow_list_entries(list)[1], "until:2026-11-30T23:59:59Z:ro:psk:bob");
    assert_int_equal(match_list(LIST("until:2020-01-01T00:00:00Z:psk:bob"), LIST("psk:bob")),
                     ALLOW_NOTHING);
    assert_int_equal(match_list(LIST("until:9999-12-31T23:59:59Z:psk:bob"), LIST("psk:bob")),
                     ALLOW_WRITE);
}

static void test_for_becomes_until(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds;
    } cases[] = {{"for:1s:psk:bob", 1},
                 {"for:90m:psk:bob", 5400},
                 {"for:2h:psk:bob", 7200},
                 {"for:30d:psk:bob", 2592000}};
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        int64_t before = g_get_real_time();
        g_autoptr(AllowList) list = new_list(LIST(cases[i].text));
        int64_t end = allow_list_next_end(list, 0), after = g_get_real_time();
        assert_true(end >= before + cases[i].seconds * G_USEC_PER_SEC);
        assert_true(end < after + (cases[i].seconds + 1) * G_USEC_PER_SEC);
        /* What is kept means the same when it is read again. */
        const char *kept = allow_list_entries(list)[0];
        assert_true(g_str_has_prefix(kept, "until:") && g_str_has_suffix(kept, ":psk:bob"));
        g_autoptr(AllowList) again = new_list(LIST(kept));
        assert_true(allow_list_next_end(again, 0) == end);
        assert_string_equal(allow_list_entries(again)[0], kept);
    }
    g_autoptr(AllowList) kept = new_list(LIST("for:2h:ro:unix:@kvm"));
    assert_true(g_str_has_suffix(allow_list_entries(kept)[0], "Z:ro:unix:@kvm"));
    assert_true(allow_list_wants_groups(kept));
}

static void test_times_that_are_none(void **state)
{
    static const char *const wrong[] = {
        "until:psk:bob",
        "until:2026-12-01:psk:bob",
        "until:2026-12-01T00:00:00:psk:bob",
        "until:2026-12-01T00:00:00+01:00:psk:bob",
        "until:2026-13-01T00:00:00Z:psk:bob",
        "until:2026-02-30T00:00:00Z:psk:bob",
        "until:2026-12-01T24:00:00Z:psk:bob",
        "until:2026-12-01T00:00:00Z",
        "until:2026-12-01T00:00:00Z:",
        "until:2026-12-01T00:00:00Z:bob",
        "until:2026-12-01T00:00:00Z:until:2026-12-01T00:00:00Z:psk:bob",
        "until:2026-12-01T00:00:00Z:for:2h:psk:bob",
        "ro:until:2026-12-01T00:00:00Z:psk:bob",
        "!for:2h:psk:bob",
        "for:psk:bob",
        "for:2:psk:bob",
        "for:h:psk:bob",
        "for:0h:psk:bob",
        "for:-2h:psk:bob",
        "for:1.5h:psk:bob",
        "for:2w:psk:bob",
        "for:2hh:psk:bob",
        "for:36601d:psk:bob",
        "for:99999999999999999999s:psk:bob",
        "for:2h",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *reason = reason_of(wrong[i]);
        if (!reason)
            fail_msg("%s was taken", wrong[i]);
    }
}

static void test_the_best_identity(void **state)
{
    static const struct {
        const char *identities[4], *best;
    } cases[] = {
        {{"ip:192.0.2.1"}, "ip:192.0.2.1"},
        {{"ip:192.0.2.1", "psk:bob"}, "psk:bob"},
        {{"unix:0", "x509:CN=a"}, "x509:CN=a"},
        {{"unix:0", "ip:192.0.2.1"}, "unix:0"},
        {{NULL}, NULL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GPtrArray) set =
            g_ptr_array_new_with_free_func((GDestroyNotify)allow_identity_free);
        for (size_t j = 0; cases[i].identities[j]; j++)
            g_ptr_array_add(set, allow_identity_new(cases[i].identities[j]));
        if (cases[i].best)
            assert_string_equal(allow_identity_best(set), cases[i].best);
        else
            assert_null(allow_identity_best(set));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_and_empty),
        cmocka_unit_test(test_first_match_decides),
        cmocka_unit_test(test_psk_is_literal),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_groups_are_asked_for),
        cmocka_unit_test(test_ip),
        cmocka_unit_test(test_x509_attributes),
        cmocka_unit_test(test_x509_wildcards_stay_in_one_value),
        cmocka_unit_test(test_malformed_entries),
        cmocka_unit_test(test_malformed_identities_match_nothing),
        cmocka_unit_test(test_entries_are_kept_as_given),
        cmocka_unit_test(test_an_entry_ends),
        cmocka_unit_test(test_for_becomes_until),
        cmocka_unit_test(test_times_that_are_none),
        cmocka_unit_test(test_the_best_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
