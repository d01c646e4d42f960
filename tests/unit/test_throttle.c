/* What the limits of an export let through, by a clock that the test turns. */
#include "daemon/core/throttle.h"
#include "tests/unit/check.h"
#include <sys/eventfd.h>
#include <unistd.h>

#define SECOND ((gint64)G_USEC_PER_SEC)
#define MiB    (UINT64_C(1) << 20)

static gint64 clock_now;

gint64 __wrap_g_get_monotonic_time(void);
gint64 __wrap_g_get_monotonic_time(void)
{
    return clock_now;
}

static ThrottleWaiter new_waiter(void)
{
    ThrottleWaiter waiter = {.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    assert_true(waiter.wake_fd >= 0);
    return waiter;
}

static bool was_woken(ThrottleWaiter *waiter)
{
    eventfd_t ignored;
    return eventfd_read(waiter->wake_fd, &ignored) == 0;
}

/* Asks whenever it is told to, until `end`; how many were let through. */
static uint64_t run(Throttle *throttle, ThrottleWaiter *waiter, uint64_t bytes, gint64 end)
{
    uint64_t count = 0;
    while (clock_now < end) {
        gint64 due = throttle_take(throttle, waiter, bytes);
        if (due == 0) {
            count++;
        } else {
            assert_true(due > clock_now);
            clock_now = due;
        }
    }
    throttle_leave(throttle, waiter);
    return count;
}

static void test_no_limit(void **state)
{
    Throttle *throttle = throttle_new(&(ThrottleLimits){0});
    ThrottleWaiter waiter = new_waiter();
    assert_false(atomic_load(throttle_switch(throttle)));
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(throttle_take(throttle, &waiter, UINT64_MAX / 2), 0);
    close(waiter.wake_fd);
    throttle_free(throttle);
}

static void test_operations(void **state)
{
    static const struct {
        uint64_t rate, burst, bytes;
    } rows[] = {{100, 10, 0}, {1, 1, 4096}, {3, 50, 1}, {1000000, 1, 0}, {7, 0, 0}, {4000, 0, 9}};
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        clock_now = 12345;
        Throttle *throttle =
            throttle_new(&(ThrottleLimits){.iops = rows[i].rate, .iops_burst = rows[i].burst});
        ThrottleWaiter waiter = new_waiter();
        uint64_t burst = rows[i].burst ? rows[i].burst : MAX(rows[i].rate / 10, 1);
        assert_true(atomic_load(throttle_switch(throttle)));
        for (uint64_t j = 0; j < burst; j++)
            assert_int_equal(throttle_take(throttle, &waiter, rows[i].bytes), 0);
        gint64 due = throttle_take(throttle, &waiter, rows[i].bytes);
        assert_in_range(due, clock_now + 1, clock_now + SECOND / (gint64)rows[i].rate + 1);
        bool fast = rows[i].rate > 10000; /* the clock has microseconds */
        uint64_t seconds = fast ? 1 : 10, most = rows[i].rate * seconds;
        uint64_t count =
            run(throttle, &waiter, rows[i].bytes, clock_now + (gint64)seconds * SECOND);
        assert_in_range(count, fast ? most / 3 : most * 98 / 100, most + 1);
        /* A rest fills it, and no further. */
        clock_now += 3600 * SECOND;
        for (uint64_t j = 0; j < burst; j++)
            assert_int_equal(throttle_take(throttle, &waiter, rows[i].bytes), 0);
        assert_int_not_equal(throttle_take(throttle, &waiter, rows[i].bytes), 0);
        throttle_leave(throttle, &waiter);
        close(waiter.wake_fd);
        throttle_free(throttle);
    }
}

static void test_bytes(void **state)
{
    static const struct {
        uint64_t rate, burst, bytes;
    } rows[] = {{10 * MiB, MiB, 4096},
                {10 * MiB, MiB, MiB},
                {10 * MiB, MiB, 32 * MiB}, /* more than the burst: it waits for a full bucket */
                {MiB, 0, 65536},
                {UINT64_C(1) << 40, 0, 4 * MiB},
                {1000, 1, 100}};
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        clock_now = 0;
        Throttle *throttle = throttle_new(
            &(ThrottleLimits){.bandwidth = rows[i].rate, .bandwidth_burst = rows[i].burst});
        ThrottleWaiter waiter = new_waiter();
        uint64_t burst = rows[i].burst ? rows[i].burst : rows[i].rate / 10;
        uint64_t moved = run(throttle, &waiter, rows[i].bytes, 64 * SECOND / 10) * rows[i].bytes;
        uint64_t most = burst + rows[i].rate * 64 / 10;
        assert_in_range(moved, most * 90 / 100 - rows[i].bytes,
                        most + (rows[i].bytes > burst ? rows[i].bytes : 0));
        close(waiter.wake_fd);
        throttle_free(throttle);
    }
}

/* What moves no bytes does not wait for those that do, and both limits hold. */
static void test_both(void **state)
{
    clock_now = 0;
    Throttle *throttle = throttle_new(
        &(ThrottleLimits){.iops = 10, .iops_burst = 5, .bandwidth = MiB, .bandwidth_burst = 1});
    ThrottleWaiter waiter = new_waiter();
    assert_int_equal(throttle_take(throttle, &waiter, 10 * MiB), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(throttle_take(throttle, &waiter, 0), 0);
    assert_in_range(throttle_take(throttle, &waiter, 0), 1, SECOND / 10 + 1);
    throttle_leave(throttle, &waiter);
    assert_in_range(throttle_take(throttle, &waiter, 1), 10 * SECOND, 10 * SECOND + 10);
    throttle_leave(throttle, &waiter);
    close(waiter.wake_fd);
    throttle_free(throttle);
}

/* Each in its turn, whoever asks more often; who leaves lets the next one ask. */
static void test_turns(void **state)
{
    clock_now = 0;
    Throttle *throttle = throttle_new(&(ThrottleLimits){.iops = 10, .iops_burst = 1});
    enum { WAITERS = 4 };
    ThrottleWaiter waiters[WAITERS];
    unsigned count[WAITERS] = {0};
    for (unsigned i = 0; i < WAITERS; i++)
        waiters[i] = new_waiter();
    assert_int_equal(throttle_take(throttle, &waiters[0], 0), 0);
    for (unsigned i = 0; i < WAITERS; i++) {
        gint64 due = throttle_take(throttle, &waiters[i], 0);
        assert_true(i == 0 ? due == SECOND / 10 + 1 : due == G_MAXINT64);
    }
    for (unsigned step = 0; step < 400; step++) {
        clock_now += SECOND / 10 + 1;
        /* Everybody asks, the last one first, and those who were let through want more. */
        unsigned before = 0, after = 0;
        for (unsigned i = 0; i < WAITERS; i++)
            before += count[i];
        for (unsigned i = WAITERS; i > 0; i--) {
            if (throttle_take(throttle, &waiters[i - 1], 0) == 0) {
                count[i - 1]++;
                assert_int_not_equal(throttle_take(throttle, &waiters[i - 1], 0), 0);
                assert_true(was_woken(&waiters[i % WAITERS]));
            }
        }
        for (unsigned i = 0; i < WAITERS; i++)
            after += count[i];
        assert_int_equal(after, before + 1);
    }
    for (unsigned i = 0; i < WAITERS; i++)
        assert_int_equal(count[i], 100);
    throttle_leave(throttle, &waiters[2]); /* in the middle */
    throttle_leave(throttle, &waiters[2]); /* it does not wait */
    throttle_leave(throttle, &waiters[0]);
    assert_true(was_woken(&waiters[1]));
    throttle_leave(throttle, &waiters[1]);
    assert_true(was_woken(&waiters[3]));
    throttle_leave(throttle, &waiters[3]);
    clock_now += SECOND;
    assert_int_equal(throttle_take(throttle, &waiters[2], 0), 0);
    for (unsigned i = 0; i < WAITERS; i++)
        close(waiters[i].wake_fd);
    throttle_free(throttle);
}

static void test_changes(void **state)
{
    clock_now = 0;
    Throttle *throttle = throttle_new(&(ThrottleLimits){.iops = 1, .iops_burst = 1});
    ThrottleWaiter first = new_waiter(), second = new_waiter();
    assert_int_equal(throttle_take(throttle, &first, 0), 0);
    assert_in_range(throttle_take(throttle, &first, 0), SECOND, SECOND + 1);
    assert_int_equal(throttle_take(throttle, &second, 0), G_MAXINT64);

    /* Faster: who waits is told, and waits for less. What it has does not grow by that. */
    throttle_set(throttle, &(ThrottleLimits){.iops = 100, .iops_burst = 50});
    assert_true(was_woken(&first));
    assert_in_range(throttle_take(throttle, &first, 0), SECOND / 100, SECOND / 100 + 1);
    /* Slower. */
    throttle_set(throttle, &(ThrottleLimits){.bandwidth = 1});
    assert_true(was_woken(&first));
    assert_int_equal(throttle_take(throttle, &first, 100), 0);
    assert_true(was_woken(&second));
    assert_in_range(throttle_take(throttle, &second, 1), 100 * SECOND, 100 * SECOND + 1);
    /* None: through at once, and the switch says so. */
    throttle_set(throttle, &(ThrottleLimits){0});
    assert_true(was_woken(&second));
    assert_false(atomic_load(throttle_switch(throttle)));
    assert_int_equal(throttle_take(throttle, &second, 1000), 0);
    /* A smaller burst takes away what is beyond it. */
    throttle_set(throttle, &(ThrottleLimits){.iops = 1, .iops_burst = 100});
    throttle_set(throttle, &(ThrottleLimits){.iops = 1, .iops_burst = 2});
    assert_int_equal(throttle_take(throttle, &first, 0), 0);
    assert_int_equal(throttle_take(throttle, &first, 0), 0);
    assert_int_not_equal(throttle_take(throttle, &first, 0), 0);
    throttle_leave(throttle, &first);
    throttle_count_wait(throttle, 5);
    throttle_count_wait(throttle, 6);
    ThrottleStats stats = throttle_stats(throttle);
    assert_int_equal(stats.operations, 2);
    assert_int_equal(stats.microseconds, 11);
    close(first.wake_fd);
    close(second.wake_fd);
    throttle_free(throttle);
}

/* Ahead of its turn, and paid for: in the end no more is let through than ever. */
static void test_overdraft(void **state)
{
    clock_now = 0;
    Throttle *throttle = throttle_new(&(ThrottleLimits){.iops = 10, .iops_burst = 1});
    ThrottleWaiter first = new_waiter(), second = new_waiter();
    assert_int_equal(throttle_take(throttle, &first, 0), 0);
    assert_int_not_equal(throttle_take(throttle, &first, 0), 0);
    assert_true(throttle_take(throttle, &second, 0) == G_MAXINT64);
    for (unsigned i = 0; i < 5; i++)
        throttle_overdraw(throttle, &first, 0);
    assert_false(first.queued);
    assert_true(was_woken(&second));
    assert_in_range(run(throttle, &second, 0, SECOND), 10 - 5 - 1, 10 - 5 + 1);
    close(first.wake_fd);
    close(second.wake_fd);
    throttle_free(throttle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_limit),  cmocka_unit_test(test_operations),
        cmocka_unit_test(test_bytes),     cmocka_unit_test(test_both),
        cmocka_unit_test(test_turns),     cmocka_unit_test(test_changes),
        cmocka_unit_test(test_overdraft),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
