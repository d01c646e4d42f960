/* Which waits begin with looks. (That it pays is measured by tests/bench.) */
#include "daemon/nbd/busy_poll.h"
#include "tests/unit/check.h"

#define WINDOW 50

/* One wait of that many microseconds. Whether it began with looks. */
static bool wait_of(BusyPoll *poll, bool alone, gint64 length)
{
    static gint64 now = 1000;
    bool looks = busy_poll_begin(poll, alone, now);
    if (looks)
        busy_poll_end(poll);
    now += length;
    busy_poll_learn(poll, now);
    return looks;
}

/* As many as it takes; how many that was. */
static int waits_until_it_looks(BusyPoll *poll)
{
    int waits = 0;
    while (!wait_of(poll, true, WINDOW / 2))
        assert_true(++waits < 1000);
    return waits;
}

static void test_short_waits_are_looked_through(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    assert_false(wait_of(&poll, true, 0));
    assert_in_range(waits_until_it_looks(&poll), 8, 100);
    for (int i = 0; i < 1000; i++)
        assert_true(wait_of(&poll, true, WINDOW - 1));
}

static void test_a_long_wait_ends_it(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    waits_until_it_looks(&poll);
    assert_true(wait_of(&poll, true, WINDOW)); /* it takes a window to tell */
    for (int i = 0; i < 1000; i++)
        assert_false(wait_of(&poll, true, 2 * WINDOW));
    waits_until_it_looks(&poll);
}

/* Asleep, a wait takes longer than it would awake. Where it does not, that is found out again and
 * again, but not often. */
static void test_waits_asleep_may_be_longer(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    for (unsigned tries = 0; tries < 10; tries++) {
        int slept = 0;
        while (slept < 1000 && !wait_of(&poll, true, 2 * WINDOW - 1))
            slept++;
        assert_in_range(slept, 8, 100);
    }
    waits_until_it_looks(&poll);
    for (int i = 0; i < 1000; i++)
        assert_true(wait_of(&poll, true, WINDOW - 1));
}

static void test_who_is_late_once_is_waited_for(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    waits_until_it_looks(&poll);
    for (unsigned tries = 0; tries < 10; tries++) {
        for (int i = 0; i < 100; i++)
            assert_true(wait_of(&poll, true, 1));
        assert_true(wait_of(&poll, true, 100 * WINDOW));
    }
    int in_vain = 0;
    while (wait_of(&poll, true, WINDOW))
        assert_true(++in_vain < 5);
}

static void test_many_requests_gather(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    waits_until_it_looks(&poll);
    assert_false(wait_of(&poll, false, 1));
    assert_false(wait_of(&poll, true, 1));
    for (int i = 0; i < 1000; i++)
        assert_false(wait_of(&poll, i % 8 != 0, 1));
}

static void test_it_can_be_switched_off(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, 0);
    for (int i = 0; i < 1000; i++)
        assert_false(wait_of(&poll, true, 0));
}

static void test_at_once(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    assert_true(busy_poll_begin_at_once(&poll, 1));
    busy_poll_end(&poll);
    busy_poll_init(&poll, 0);
    assert_false(busy_poll_begin_at_once(&poll, 1));
}

static void test_looks_end(void **state)
{
    BusyPoll poll;
    busy_poll_init(&poll, WINDOW);
    waits_until_it_looks(&poll);
    assert_true(busy_poll_begin(&poll, true, g_get_monotonic_time()));
    while (busy_poll_again(&poll))
        ;
    assert_true(g_get_monotonic_time() - poll.since >= WINDOW);
    busy_poll_end(&poll);
}

static void test_half_of_the_processors_at_most(void **state)
{
    unsigned most = MAX(g_get_num_processors() / 2, 1);
    g_autofree BusyPoll *polls = g_new(BusyPoll, most + 1);
    for (unsigned i = 0; i <= most; i++) {
        busy_poll_init(&polls[i], WINDOW);
        waits_until_it_looks(&polls[i]);
    }
    for (unsigned i = 0; i <= most; i++)
        assert_int_equal(busy_poll_begin(&polls[i], true, 0), i < most);
    busy_poll_end(&polls[most]); /* it was not looking: that gives nobody's place away */
    assert_false(busy_poll_begin(&polls[most], true, 0));
    busy_poll_end(&polls[0]);
    assert_true(busy_poll_begin(&polls[most], true, 0));
    for (unsigned i = 1; i <= most; i++)
        busy_poll_end(&polls[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_waits_are_looked_through),
        cmocka_unit_test(test_a_long_wait_ends_it),
        cmocka_unit_test(test_waits_asleep_may_be_longer),
        cmocka_unit_test(test_who_is_late_once_is_waited_for),
        cmocka_unit_test(test_many_requests_gather),
        cmocka_unit_test(test_it_can_be_switched_off),
        cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_looks_end),
        cmocka_unit_test(test_half_of_the_processors_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
