/* Which waits begin with a sleep, for clients as they are met. (That it pays is measured by
 * tests/bench.) */
#include "daemon/nbd/gather.h"
#include "tests/unit/check.h"

#define PAUSE 30

/* What a wait brings, and how long it takes, each way. */
typedef struct {
    unsigned requests[GATHER_WAYS];
    gint64 time[GATHER_WAYS];
} Model;

/* Wakes its server for each request; one in eight times two have come. */
static const Model deep = {{1, 1, 6}, {20, 15, 70}};
/* The same where a clock is slow to wake anybody. */
static const Model slow_clock = {{1, 1, 6}, {20, 13, 110}};
/* Has sent all that it may before the sleep is over. */
static const Model shallow = {{1, 1, 4}, {20, 20, 120}};
static const Model two_of_them = {{1, 1, 2}, {25, 25, 250}};
static const Model awake = {{1, 1, 4}, {20, 14, 120}};
static const Model one_at_a_time = {{1, 1, 1}, {30, 30, 60}};
static const Model slow = {{2, 2, 4}, {150, 150, 450}};

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

/* Part of the waits that began in a way, in percent, in so many microseconds. */
static unsigned part(World *world, GatherWay way, const Model *model, gint64 time)
{
    unsigned waits = 0, of_them = 0;
    gint64 end = world->now + time;
    while (world->now < end) {
        GatherWay here = gather_before_wait(&world->gather, world->last, world->now);
        world->last = model->requests[here];
        if (here != GATHER_SLEEP && model->requests[GATHER_SLEEP] > 1 && world->turn++ % 8 == 0)
            world->last++;
        world->now += model->time[here];
        waits++;
        of_them += here == way;
    }
    return of_them * 100 / waits;
}

static unsigned slept(World *world, const Model *model, gint64 time)
{
    return part(world, GATHER_SLEEP, model, time);
}

#define SECOND G_USEC_PER_SEC

static void test_kept_where_it_is_quicker(void **state)
{
    World world;
    begin(&world);
    slept(&world, &deep, SECOND / 10);
    assert_in_range(slept(&world, &deep, 10 * SECOND), 90, 100);
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

static void test_the_quickest_way_is_kept(void **state)
{
    World world;
    begin(&world);
    part(&world, GATHER_AWAKE, &awake, SECOND / 10);
    assert_in_range(part(&world, GATHER_AWAKE, &awake, 10 * SECOND), 90, 100);
    gather_clear(&world.gather);
    begin(&world);
    part(&world, GATHER_AWAKE, &slow_clock, SECOND / 10);
    assert_in_range(part(&world, GATHER_AWAKE, &slow_clock, 10 * SECOND), 90, 100);
    /* It becomes one for which a sleep is as quick, and costs less. */
    part(&world, GATHER_SLEEP, &deep, 5 * SECOND);
    assert_in_range(slept(&world, &deep, SECOND / 2), 60, 100);
    gather_clear(&world.gather);
}

/* What was taken while the connection waited in other ways says nothing of the stretch behind it.
 */
static void test_not_for_what_came_before(void **state)
{
    World world;
    begin(&world);
    gather_before_wait(&world.gather, 1, world.now);
    world.now += SECOND / 10;
    gather_before_wait(&world.gather, 500, world.now);
    world.now += 5000;
    gather_before_wait(&world.gather, 1, world.now);
    assert_false(world.gather.busy);
    assert_int_equal(world.gather.step, 0);
    gather_clear(&world.gather);
}

static void test_never_for_one_at_a_time(void **state)
{
    World world;
    begin(&world);
    for (int i = 0; i < 100000; i++, world.now += 25)
        assert_int_not_equal(gather_before_wait(&world.gather, 1, world.now), GATHER_SLEEP);
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
    assert_in_range(slept(&world, &deep, SECOND / 2), 60, 100);
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
    /* One that is idle, waits for something else, or is gone, no longer counts. */
    void (*const ends[])(Gather *) = {gather_idle, gather_away, gather_clear};
    for (unsigned i = 0; i < G_N_ELEMENTS(ends); i++) {
        slept(&worlds[most], &deep, SECOND / 10);
        slept(&worlds[0], &deep, SECOND / 10);
        assert_int_equal(slept(&worlds[0], &deep, SECOND), 0);
        ends[i](&worlds[most].gather);
        slept(&worlds[0], &deep, SECOND);
        assert_in_range(slept(&worlds[0], &deep, SECOND), 60, 100);
    }
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
        cmocka_unit_test(test_the_quickest_way_is_kept),
        cmocka_unit_test(test_not_for_what_came_before),
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
