/* Who is let through: no threads, so that each answer is the only one. */
#include "storage/fair_queue.h"
#include "tests/unit/check.h"
#include <glib.h>

/* Any pointers. */
static const char owners[100];
static EngineJob jobs[1000];
static unsigned used;

static void push(FairQueue *queue, const void *owner, unsigned count)
{
    for (; count > 0; count--) {
        EngineJob *job = &jobs[used++];

        *job = (EngineJob){.owner = owner};
        fair_queue_push(queue, job);
    }
}

/* What runs, of which owner: [0] of none. */
static unsigned runs[1 + G_N_ELEMENTS(owners)];

static unsigned *runs_of(const void *owner)
{
    return owner != NULL ? &runs[1 + ((const char *)owner - owners)] : &runs[0];
}

static EngineJob *next(FairQueue *queue)
{
    EngineJob *job = fair_queue_next(queue);

    if (job != NULL) {
        ++*runs_of(job->owner);
    }
    return job;
}

static void ended(FairQueue *queue, const void *owner)
{
    --*runs_of(owner);
    fair_queue_ended(queue, owner);
}

/* Everything that hung ends, and what waited behind it. */
static void finish(FairQueue *queue)
{
    bool again = true;

    while (again) {
        again = false;
        for (unsigned i = 0; i < G_N_ELEMENTS(runs); i++) {
            for (; runs[i] > 0; again = true) {
                ended(queue, i > 0 ? &owners[i - 1] : NULL);
            }
        }
        while (next(queue) != NULL) {
        }
    }
    fair_queue_free(queue);
}

/* Runs what may run, for ever: how many. */
static unsigned run_all(FairQueue *queue, const void *owner)
{
    unsigned count = 0;
    EngineJob *job;

    for (; (job = next(queue)) != NULL; count++) {
        assert_ptr_equal(job->owner, owner);
    }
    return count;
}

static void end_all(FairQueue *queue, const void *owner, unsigned count)
{
    for (; count > 0; count--) {
        ended(queue, owner);
    }
}

static int set_up(void **state)
{
    used = 0;
    return 0;
}

static void each_that_hangs_takes_half_as_much(void **state)
{
    static const unsigned taken[] = {24, 12, 6, 3, 2, 1};
    FairQueue *queue = fair_queue_new(64);
    unsigned hung = 0, running = 0;

    for (; running < 64; hung++) {
        unsigned count;

        push(queue, &owners[hung], 30);
        count = run_all(queue, &owners[hung]);
        assert_int_equal(count, hung < G_N_ELEMENTS(taken) ? taken[hung] : 1);
        running += count;
    }
    assert_int_equal(hung, 22);
    push(queue, &owners[hung], 1);
    push(queue, NULL, 1);
    assert_null(next(queue));
    /* The first thread that is free is for who has none, whoever has waited longer. */
    ended(queue, &owners[0]);
    assert_int_equal(run_all(queue, &owners[hung]), 1);
    ended(queue, &owners[0]);
    assert_int_equal(run_all(queue, NULL), 1);
    ended(queue, &owners[0]);
    assert_null(next(queue));
    finish(queue);
}

static void owners_take_turns(void **state)
{
    static const int order[] = {0, 1, 2, 0, 2, 0, 0};
    FairQueue *queue = fair_queue_new(1);

    push(queue, &owners[0], 4);
    push(queue, &owners[1], 1);
    push(queue, &owners[2], 2);
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        EngineJob *job = next(queue);

        assert_ptr_equal(job->owner, &owners[order[i]]);
        assert_null(next(queue));
        ended(queue, job->owner);
    }
    assert_null(next(queue));
    finish(queue);
}

static void jobs_of_one_owner_keep_their_order(void **state)
{
    FairQueue *queue = fair_queue_new(4);

    push(queue, &owners[0], 100);
    for (unsigned i = 0; i < 100; i++) {
        assert_ptr_equal(next(queue), &jobs[i]);
        ended(queue, &owners[0]);
    }
    finish(queue);
}

/* An end leaves one more thread to the others, and its owner with one less that it has. */
static void one_end_may_let_through_several(void **state)
{
    FairQueue *queue = fair_queue_new(16);

    push(queue, &owners[0], 10);
    push(queue, &owners[1], 10);
    for (unsigned i = 0; i < 8; i++) {
        assert_ptr_equal(next(queue)->owner, &owners[i % 2]);
    }
    assert_null(next(queue));
    ended(queue, &owners[1]);
    assert_ptr_equal(next(queue)->owner, &owners[0]);
    assert_ptr_equal(next(queue)->owner, &owners[1]);
    assert_null(next(queue));
    finish(queue);
}

static void who_has_no_owner_knows_no_bound(void **state)
{
    FairQueue *queue = fair_queue_new(8);

    push(queue, NULL, 10);
    assert_int_equal(run_all(queue, NULL), 8);
    end_all(queue, NULL, 8);
    assert_int_equal(run_all(queue, NULL), 2);
    end_all(queue, NULL, 2);
    finish(queue);
}

static void small_ones_stop_nobody(void **state)
{
    for (unsigned threads = 1; threads < 12; threads++) {
        FairQueue *queue = fair_queue_new(threads);
        unsigned first;

        push(queue, &owners[0], 20);
        first = run_all(queue, &owners[0]);
        assert_in_range(first, 1, MAX(threads - 1, 1));
        push(queue, &owners[1], 1);
        assert_int_equal(run_all(queue, &owners[1]), threads > 1);
        for (unsigned i = 0; i < 21; i++) {
            ended(queue, i < 20 ? &owners[0] : &owners[1]);
            while (next(queue) != NULL) {
            }
        }
        finish(queue);
    }
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_that_hangs_takes_half_as_much), TEST(owners_take_turns),
        TEST(jobs_of_one_owner_keep_their_order), TEST(one_end_may_let_through_several),
        TEST(who_has_no_owner_knows_no_bound),    TEST(small_ones_stop_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
