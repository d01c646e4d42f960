#include "storage/range_lock.h"
#include "tests/unit/check.h"
#include <stdatomic.h>
#include <string.h>

static void shared_holders_overlap(void **state)
{
    RangeLock ranges;
    RangeHold one, two, three;

    range_lock_init(&ranges);
    range_lock_acquire(&ranges, &one, 0, 100, false);
    assert_true(range_lock_try(&ranges, &two, 50, 100, false));
    assert_false(range_lock_try(&ranges, &three, 99, 1, true));
    range_lock_release(&ranges, &one);
    assert_true(range_lock_try(&ranges, &three, 49, 1, true));
    range_lock_release(&ranges, &three);
    range_lock_release(&ranges, &two);
    range_lock_destroy(&ranges);
}

static void an_exclusive_holder_overlaps_nobody(void **state)
{
    RangeLock ranges;
    RangeHold one, two;

    range_lock_init(&ranges);
    range_lock_acquire(&ranges, &one, 100, 100, true);
    assert_false(range_lock_try(&ranges, &two, 0, 101, false));
    assert_false(range_lock_try(&ranges, &two, 199, 1, true));
    assert_false(range_lock_try(&ranges, &two, 0, 1000, true));
    assert_true(range_lock_try(&ranges, &two, 0, 100, true));
    range_lock_release(&ranges, &two);
    assert_true(range_lock_try(&ranges, &two, 200, 1, true));
    range_lock_release(&ranges, &two);
    range_lock_release(&ranges, &one);
    range_lock_destroy(&ranges);
}

/* Whoever holds [i, i+2) exclusively alone touches these two plain integers; shared holders only
 * look at them. TSan watches. */
#define CELLS   8
#define THREADS 4
#define ROUNDS  5000

typedef struct {
    RangeLock ranges;
    int cells[CELLS + 1];
    _Atomic int torn;
    _Atomic unsigned seed;
} Shared;

static void *contend(void *data)
{
    Shared *shared = data;
    unsigned random = atomic_fetch_add(&shared->seed, 7919) * 2654435761u;

    for (int i = 0; i < ROUNDS; i++) {
        unsigned cell;
        RangeHold hold;

        random = random * 1103515245u + 12345u;
        cell = (random >> 16) % CELLS;
        if (random & 0x8000) {
            range_lock_acquire(&shared->ranges, &hold, cell, 2, true);
            shared->cells[cell]++;
            shared->cells[cell + 1]--;
        } else {
            int before;

            range_lock_acquire(&shared->ranges, &hold, cell, 2, false);
            before = shared->cells[cell];
            shared->torn += before != shared->cells[cell];
        }
        range_lock_release(&shared->ranges, &hold);
    }
    return NULL;
}

static void writers_exclude_under_contention(void **state)
{
    Shared shared = {.torn = 0};
    pthread_t threads[THREADS];
    int sum = 0;

    range_lock_init(&shared.ranges);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, contend, &shared);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i <= CELLS; i++) {
        sum += shared.cells[i];
    }
    assert_int_equal(sum, 0);
    assert_int_equal(shared.torn, 0);
    assert_null(shared.ranges.first);
    assert_int_equal(shared.ranges.exclusives, 0);
    range_lock_destroy(&shared.ranges);
}

typedef struct {
    RangeLock *ranges;
    _Atomic bool held;
} Waiter;

static void *wait_exclusively(void *data)
{
    Waiter *waiter = data;
    RangeHold hold;

    range_lock_acquire(waiter->ranges, &hold, 0, 100, true);
    waiter->held = true;
    range_lock_release(waiter->ranges, &hold);
    return NULL;
}

/* A stream of shared holders does not starve an exclusive one that came before them. */
static void order_of_arrival_decides(void **state)
{
    RangeLock ranges;
    RangeHold one, late;
    Waiter waiter = {.ranges = &ranges};
    pthread_t thread;

    range_lock_init(&ranges);
    range_lock_acquire(&ranges, &one, 0, 10, false);
    pthread_create(&thread, NULL, wait_exclusively, &waiter);
    for (;;) {
        pthread_mutex_lock(&ranges.lock);
        bool waits = ranges.waiting > 0;
        pthread_mutex_unlock(&ranges.lock);
        if (waits) {
            break;
        }
    }
    assert_false(range_lock_try(&ranges, &late, 5, 1, false));
    assert_false(waiter.held);
    range_lock_release(&ranges, &one);
    pthread_join(thread, NULL);
    assert_true(waiter.held);
    assert_true(range_lock_try(&ranges, &late, 5, 1, false));
    range_lock_release(&ranges, &late);
    range_lock_destroy(&ranges);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_holders_overlap),
        cmocka_unit_test(an_exclusive_holder_overlaps_nobody),
        cmocka_unit_test(writers_exclude_under_contention),
        cmocka_unit_test(order_of_arrival_decides),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
