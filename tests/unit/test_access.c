/* daemon/control/access: who a peer is, and which level the rules give it. */
#include "daemon/control/access.h"
#include "tests/unit/check.h"

#include <sys/socket.h>
#include <unistd.h>

static void test_rules(void **state)
{
    AccessRules *rules = access_rules_new();
    const char *wrong[] = {"",
                           "admin",
                           "admin=",
                           "=root",
                           "root=1",
                           "Admin=root",
                           "admin=nobody-by-that-name",
                           "admin=@no-such-group",
                           "admin=-1",
                           "admin=4294967295",
                           "operate=@"};
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        if (access_rules_add(rules, wrong[i], &error))
            fail_msg("passed: %s", wrong[i]);
        assert_non_null(error);
    }
    assert_true(access_rules_add(rules, "operate=4242", NULL));
    assert_true(access_rules_add(rules, "admin=@4343", NULL));
    assert_true(access_rules_add(rules, "read=@4344", NULL));
    gid_t groups[] = {1, 4343, 4344};
    PeerCredentials peer = {.uid = 4000, .groups = groups, .group_count = 1};
    assert_int_equal(access_rules_match(rules, &peer), API_ACCESS_READ);
    peer.uid = 4242;
    assert_int_equal(access_rules_match(rules, &peer), API_ACCESS_OPERATE);
    peer.group_count = 3; /* the highest that matches */
    assert_int_equal(access_rules_match(rules, &peer), API_ACCESS_ADMIN);
    peer.uid = 4000;
    assert_int_equal(access_rules_match(rules, &peer), API_ACCESS_ADMIN);
    peer = (PeerCredentials){.uid = 0};
    assert_int_equal(access_rules_match(rules, &peer), API_ACCESS_ADMIN);
    peer = (PeerCredentials){.uid = geteuid()};
    assert_int_equal(access_rules_match(rules, &peer), API_ACCESS_ADMIN);
    access_rules_free(rules);
}

static void test_credentials(void **state)
{
    int pair[2];
    PeerCredentials peer;
    gid_t own[256];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_true(peer_credentials_read(pair[0], &peer, NULL));
    assert_int_equal(peer.uid, geteuid());
    assert_int_equal(peer.pid, getpid());
    int count = getgroups(G_N_ELEMENTS(own), own);
    assert_int_equal(peer.group_count, (size_t)MAX(count, 0) + 1);
    assert_int_equal(peer.groups[peer.group_count - 1], getegid());
    peer_credentials_clear(&peer);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_credentials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
