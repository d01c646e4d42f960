/* Which waits begin with a sleep, for clients as they are met. (That it pays is measured by
 * tests/bench.) */
#include "daemon/nbd/gather.h"
#include "tests/unit/check.h"

#define PAUSE 30

/* What a wait brings, and how long it takes, without a sleep before it and with one. */
typedef struct {
    unsigned requests[2];
    gint64 time[2];
} Model;

/* Wakes its server for each request; one in eight times two have come. */
static const Model deep = {{1, 6}, {20, 70}};
/* Has sent all that it may before the sleep is over. */
static const Model shallow = {{1, 4}, {20, 120}};
static const Model two_of_them = {{1, 2}, {25, 250}};
static const Model one_at_a_time = {{1, 1}, {30, 60}};
static const Model slow = {{2, 4}, {150, 450}};

typedef struct {
    Gather gather;
    gint64 now;
    unsigned turn, last;
} World;

static void begin(World *world)
{
    *world = (World){.now = 1000};
    gather_init(&world->gather, PAUSE);
}

/* Part of the waits that began with a sleep, in percent, in so many microseconds. */
static unsigned slept(World *world, const Model *model, gint64 time)
{
    unsigned waits = 0, sleeps = 0;
    gint64 end = world->now + time;
    while (world->now < end) {
        gint64 pause = gather_before_wait(&world->gather, world->last, world->now);
        bool sleeps_here = pause > 0;
        assert_true(pause == 0 || pause == PAUSE);
        world->last = model->requests[sleeps_here];
        if (!sleeps_here && model->requests[1] > 1 && world->turn++ % 8 == 0)
            world->last++;
        world->now += model->time[sleeps_here];
        waits++;
        sleeps += sleeps_here;
    }
    return sleeps * 100 / waits;
}

#define SECOND G_USEC_PER_SEC

static void test_kept_where_it_is_quicker(void **state)
{
    World world;
    begin(&world);
    slept(&world, &deep, SECOND / 10);
    assert_in_range(slept(&world, &deep, 10 * SECOND), 95, 100);
    gather_clear(&world.gather);
}

static void test_given_up_where_it_is_not(void **state)
{
    World world;
    begin(&world);
    slept(&world, &shallow, SECOND / 10);
    assert_in_range(slept(&world, &shallow, 10 * SECOND), 0, 1);
    gather_clear(&world.gather);
    begin(&world);
    slept(&world, &two_of_them, SECOND / 10);
    assert_in_range(slept(&world, &two_of_them, 10 * SECOND), 0, 1);
    gather_clear(&world.gather);
}

static void test_never_for_one_at_a_time(void **state)
{
    World world;
    begin(&world);
    for (int i = 0; i < 100000; i++, world.now += 25)
        assert_int_equal(gather_before_wait(&world.gather, 1, world.now), 0);
    gather_clear(&world.gather);
    begin(&world);
    assert_int_equal(slept(&world, &one_at_a_time, 10 * SECOND), 0);
    gather_clear(&world.gather);
}

static void test_never_for_a_slow_client(void **state)
{
    World world;
    begin(&world);
    assert_int_equal(slept(&world, &slow, 10 * SECOND), 0);
}

static void test_a_client_may_change(void **state)
{
    World world;
    begin(&world);
    slept(&world, &deep, SECOND);
    /* Until the next trial, four seconds later at most. */
    slept(&world, &shallow, 5 * SECOND);
    assert_in_range(slept(&world, &shallow, SECOND / 2), 0, 20);
    slept(&world, &deep, 5 * SECOND);
    assert_in_range(slept(&world, &deep, SECOND / 2), 80, 100);
    slept(&world, &slow, SECOND / 10); /* too slow for it to be kept up */
    assert_int_equal(slept(&world, &slow, SECOND), 0);
    gather_clear(&world.gather);
}

static void test_half_of_the_processors_at_most(void **state)
{
    unsigned most = MAX(g_get_num_processors() / 2, 1);
    World *worlds = g_new0(World, most + 1);
    for (unsigned i = 0; i <= most; i++) {
        begin(&worlds[i]);
        slept(&worlds[i], &deep, SECOND / 10);
    }
    /* With one more client than that nobody sleeps. */
    slept(&worlds[0], &deep, SECOND / 10);
    for (unsigned i = 0; i <= most; i++)
        assert_int_equal(slept(&worlds[i], &deep, SECOND / 10), 0);
    /* One that is idle, or gone, no longer counts. */
    gather_idle(&worlds[most].gather);
    slept(&worlds[0], &deep, SECOND);
    assert_in_range(slept(&worlds[0], &deep, SECOND), 80, 100);
    slept(&worlds[most], &deep, SECOND / 10);
    slept(&worlds[0], &deep, SECOND / 10);
    assert_int_equal(slept(&worlds[0], &deep, SECOND), 0);
    gather_clear(&worlds[most].gather);
    slept(&worlds[0], &deep, SECOND);
    assert_in_range(slept(&worlds[0], &deep, SECOND), 80, 100);
    for (unsigned i = 0; i < most; i++)
        gather_clear(&worlds[i].gather);
    g_free(worlds);
}

static void test_it_can_be_switched_off(void **state)
{
    World world;
    begin(&world);
    gather_init(&world.gather, 0);
    assert_int_equal(slept(&world, &deep, SECOND), 0);
}

static void test_time_without_requests_tells_nothing(void **state)
{
    World world;
    begin(&world);
    /* A burst that is shorter than what is looked at, then nothing for a second. */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(slept(&world, &deep, 3000), 0);
        world.now += SECOND;
    }
    gather_clear(&world.gather);
}

static void test_a_sleep_takes_its_time(void **state)
{
    gint64 start = g_get_monotonic_time();
    for (int i = 0; i < 10; i++)
        gather_sleep(100);
    assert_true(g_get_monotonic_time() - start >= 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_where_it_is_quicker),
        cmocka_unit_test(test_given_up_where_it_is_not),
        cmocka_unit_test(test_never_for_one_at_a_time),
        cmocka_unit_test(test_never_for_a_slow_client),
        cmocka_unit_test(test_a_client_may_change),
        cmocka_unit_test(test_half_of_the_processors_at_most),
        cmocka_unit_test(test_it_can_be_switched_off),
        cmocka_unit_test(test_time_without_requests_tells_nothing),
        cmocka_unit_test(test_a_sleep_takes_its_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
