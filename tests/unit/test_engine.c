#include "storage/engine.h"
#include "tests/unit/check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    EngineJob job;
    pthread_barrier_t *barrier;
    _Atomic int *count;
} TestJob;

static void count_one(EngineJob *job)
{
    TestJob *test = (TestJob *)job;
    _Atomic int *count = test->count;

    free(test); /* the submitter's to free, even while it runs */
    atomic_fetch_add(count, 1);
}

static void every_job_runs_once(void **state)
{
    _Atomic int count = 0;
    Engine *engine = engine_new(4);

    for (int i = 0; i < 10000; i++) {
        TestJob *test = calloc(1, sizeof(TestJob));

        test->job.run = count_one;
        test->count = &count;
        engine_submit(engine, &test->job);
    }
    engine_free(engine);
    assert_int_equal(count, 10000);
}

static void meet(EngineJob *job)
{
    pthread_barrier_wait(((TestJob *)job)->barrier);
}

/* Eight jobs that all wait for one another: only if they overlap do they ever end. */
static void jobs_overlap_up_to_the_bound(void **state)
{
    Engine *engine = engine_new(8);
    pthread_barrier_t barrier;
    TestJob jobs[8];

    pthread_barrier_init(&barrier, NULL, 8);
    for (int i = 0; i < 8; i++) {
        jobs[i] = (TestJob){.job.run = meet, .barrier = &barrier};
        engine_submit(engine, &jobs[i].job);
    }
    engine_free(engine);
    pthread_barrier_destroy(&barrier);
}

typedef struct {
    EngineJob job;
    _Atomic int *running, *most;
} BusyJob;

static void be_busy(EngineJob *job)
{
    BusyJob *busy = (BusyJob *)job;
    int running = atomic_fetch_add(busy->running, 1) + 1;
    int most = atomic_load(busy->most);

    while (running > most && !atomic_compare_exchange_weak(busy->most, &most, running)) {
    }
    usleep(1000);
    atomic_fetch_sub(busy->running, 1);
}

static void threads_are_bounded(void **state)
{
    _Atomic int running = 0, most = 0;
    Engine *engine = engine_new(3);
    BusyJob jobs[40];

    for (int i = 0; i < 40; i++) {
        jobs[i] = (BusyJob){.job.run = be_busy, .running = &running, .most = &most};
        engine_submit(engine, &jobs[i].job);
    }
    engine_free(engine);
    assert_int_equal(running, 0);
    assert_in_range(most, 1, 3);
}

static void *submit_many(void *data)
{
    void **arguments = data;

    for (int i = 0; i < 1000; i++) {
        TestJob *test = calloc(1, sizeof(TestJob));

        test->job.run = count_one;
        test->count = arguments[1];
        engine_submit(arguments[0], &test->job);
        if (i % 100 == 0) {
            usleep(500);
        }
    }
    return NULL;
}

static void many_may_submit_at_once(void **state)
{
    _Atomic int count = 0;
    Engine *engine = engine_new(4);
    void *arguments[] = {engine, &count};
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, submit_many, arguments);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    engine_free(engine);
    assert_int_equal(count, 4000);
}

static void an_unused_engine_goes_quietly(void **state)
{
    Engine *engine = engine_new(0);

    assert_string_equal(engine_name(engine), "threads");
    engine_free(engine);
    engine_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_job_runs_once),
        cmocka_unit_test(jobs_overlap_up_to_the_bound),
        cmocka_unit_test(threads_are_bounded),
        cmocka_unit_test(many_may_submit_at_once),
        cmocka_unit_test(an_unused_engine_goes_quietly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
