/* Who is let through: no threads, so that each answer is the only one. */
#include "storage/fair_queue.h"
#include "tests/unit/check.h"

/* Any pointers. */
static const char owners[100];
static EngineJob jobs[3000];
static unsigned used;

static void push(FairQueue *queue, const void *owner, unsigned count)
{
    for (; count > 0; count--) {
        EngineJob *job = &jobs[used++];

        *job = (EngineJob){.owner = owner};
        fair_queue_push(queue, job);
    }
}

/* Runs what may run, for ever: how many. */
static unsigned run_all(FairQueue *queue, const void *owner)
{
    unsigned count = 0;
    EngineJob *job;

    for (; (job = fair_queue_next(queue)) != NULL; count++) {
        assert_ptr_equal(job->owner, owner);
    }
    return count;
}

static void end_all(FairQueue *queue, const void *owner, unsigned count)
{
    for (; count > 0; count--) {
        fair_queue_ended(queue, owner);
    }
}

static int set_up(void **state)
{
    used = 0;
    return 0;
}

static void each_that_hangs_takes_less(void **state)
{
    static const unsigned taken[] = {64, 22, 7, 2, 1};
    FairQueue *queue = fair_queue_new(128);
    unsigned hung = 0, running = 0;

    for (; running < 128; hung++) {
        unsigned count;

        push(queue, &owners[hung], 70);
        count = run_all(queue, &owners[hung]);
        assert_int_equal(count, hung < G_N_ELEMENTS(taken) ? taken[hung] : 1);
        running += count;
    }
    assert_int_equal(hung, 37);
    push(queue, &owners[hung], 1);
    push(queue, NULL, 1);
    assert_null(fair_queue_next(queue));
    /* The first thread that is free is for who has none, whoever has waited longer. */
    fair_queue_ended(queue, &owners[0]);
    assert_int_equal(run_all(queue, &owners[hung]), 1);
    fair_queue_ended(queue, &owners[0]);
    assert_int_equal(run_all(queue, NULL), 1);
    fair_queue_ended(queue, &owners[0]);
    assert_null(fair_queue_next(queue));
    fair_queue_free(queue);
}

static void owners_take_turns(void **state)
{
    static const int order[] = {0, 1, 2, 0, 2, 0, 0};
    FairQueue *queue = fair_queue_new(1);

    push(queue, &owners[0], 4);
    push(queue, &owners[1], 1);
    push(queue, &owners[2], 2);
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        EngineJob *job = fair_queue_next(queue);

        assert_ptr_equal(job->owner, &owners[order[i]]);
        assert_null(fair_queue_next(queue));
        fair_queue_ended(queue, job->owner);
    }
    assert_null(fair_queue_next(queue));
    fair_queue_free(queue);
}

static void jobs_of_one_owner_keep_their_order(void **state)
{
    FairQueue *queue = fair_queue_new(4);

    push(queue, &owners[0], 100);
    for (unsigned i = 0; i < 100; i++) {
        assert_ptr_equal(fair_queue_next(queue), &jobs[i]);
        fair_queue_ended(queue, &owners[0]);
    }
    fair_queue_free(queue);
}

/* An end leaves one more thread to the others, and its owner with one less that it has. */
static void one_end_may_let_through_several(void **state)
{
    FairQueue *queue = fair_queue_new(20);

    push(queue, &owners[0], 10);
    push(queue, &owners[1], 10);
    for (unsigned i = 0; i < 12; i++) {
        assert_ptr_equal(fair_queue_next(queue)->owner, &owners[i % 2]);
    }
    assert_null(fair_queue_next(queue));
    fair_queue_ended(queue, &owners[1]);
    assert_ptr_equal(fair_queue_next(queue)->owner, &owners[0]);
    assert_ptr_equal(fair_queue_next(queue)->owner, &owners[1]);
    assert_null(fair_queue_next(queue));
    fair_queue_free(queue);
}

static void who_has_no_owner_knows_no_bound(void **state)
{
    FairQueue *queue = fair_queue_new(8);

    push(queue, NULL, 10);
    assert_int_equal(run_all(queue, NULL), 8);
    end_all(queue, NULL, 8);
    assert_int_equal(run_all(queue, NULL), 2);
    end_all(queue, NULL, 2);
    fair_queue_free(queue);
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
            fair_queue_ended(queue, i < 20 ? &owners[0] : &owners[1]);
            while (fair_queue_next(queue) != NULL) {
            }
        }
        fair_queue_free(queue);
    }
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_that_hangs_takes_less),         TEST(owners_take_turns),
        TEST(jobs_of_one_owner_keep_their_order), TEST(one_end_may_let_through_several),
        TEST(who_has_no_owner_knows_no_bound),    TEST(small_ones_stop_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
