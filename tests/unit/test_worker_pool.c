/* The engine's threads where no more can be started. */
#include "storage/engine.h"
#include "tests/unit/check.h"
#include "tests/unit/comes.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static _Atomic bool refused;
static _Atomic int alive;

typedef struct {
    void *(*run)(void *data);
    void *data;
} Start;

static void *counted(void *data)
{
    Start start = *(Start *)data;
    void *result;

    g_free(data);
    result = start.run(start.data);
    atomic_fetch_sub(&alive, 1);
    return result;
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *data), void *data);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *data), void *data);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *data), void *data)
{
    Start *start = g_new(Start, 1);

    if (refused) {
        g_free(start);
        return EAGAIN;
    }
    *start = (Start){run, data};
    atomic_fetch_add(&alive, 1);
    return __real_pthread_create(thread, attributes, counted, start);
}

static int set_up(void **state)
{
    refused = false;
    return 0;
}

/* Begins, and ends when it may. */
typedef struct {
    EngineJob job;
    sem_t begun, leave, ended;
    pthread_t thread;
} TestJob;

static void begin_and_leave(EngineJob *job)
{
    TestJob *test = (TestJob *)job;

    test->thread = pthread_self();
    sem_post(&test->begun);
    /* On the wrong thread it would be for ever. */
    while (!pthread_equal(test->thread, *(const pthread_t *)job->owner) &&
           sem_wait(&test->leave) != 0) {
    }
    sem_post(&test->ended);
}

/* The owner is the submitter; one for each job, so that none has to stand back for another. */
static void submit(Engine *engine, TestJob *test, pthread_t *owner)
{
    *owner = pthread_self();
    test->job = (EngineJob){.run = begin_and_leave, .owner = owner};
    sem_init(&test->begun, 0, 0);
    sem_init(&test->leave, 0, 0);
    sem_init(&test->ended, 0, 0);
    engine_submit(engine, &test->job);
}

static void nothing_goes_without_any(void **state)
{
    refused = true;
    errno = 0;
    assert_null(engine_new(4, ENGINE_THREADS));
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(alive, 0);
}

/* A job may wait for its submitter: it runs elsewhere, soon after the start and much later. */
static void a_submitter_never_runs_jobs(void **state)
{
    Engine *engine = engine_new(4, ENGINE_THREADS);
    pthread_t owners[3];
    TestJob jobs[3];

    for (int idle = 0; idle < 2; idle++) {
        refused = true;
        for (int i = 0; i < 3; i++) {
            submit(engine, &jobs[i], &owners[i]);
        }
        for (int i = 0; i < 3; i++) {
            sem_post(&jobs[i].leave);
            assert_true(comes(&jobs[i].ended));
            assert_false(pthread_equal(jobs[i].thread, pthread_self()));
        }
        if (idle == 1) {
            break;
        }
        refused = false;
        for (int i = 0; i < 3; i++) {
            submit(engine, &jobs[i], &owners[i]);
        }
        for (int i = 0; i < 3; i++) {
            assert_true(comes(&jobs[i].begun));
        }
        assert_true(alive >= 3);
        for (int i = 0; i < 3; i++) {
            sem_post(&jobs[i].leave);
            assert_true(comes(&jobs[i].ended));
        }
        for (int i = 0; i < 300 && alive > 1; i++) {
            usleep(100000);
        }
        usleep(500000);
        assert_int_equal(alive, 1);
    }
    engine_free(engine);
    assert_int_equal(alive, 0);
}

/* The one thread hangs, and more can be started again: by the next job, or without one. */
static void others_go_on_once_threads_can_be_started(void **state)
{
    Engine *engine = engine_new(4, ENGINE_THREADS);
    pthread_t owners[5];
    TestJob hung, jobs[4];
    int begun;

    refused = true;
    submit(engine, &hung, &owners[4]);
    assert_true(comes(&hung.begun));
    for (int i = 0; i < 3; i++) {
        submit(engine, &jobs[i], &owners[i]);
        sem_post(&jobs[i].leave);
    }
    usleep(20000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(sem_getvalue(&jobs[i].begun, &begun), 0);
        assert_int_equal(begun, 0);
    }
    engine_catch_up(engine);
    assert_int_equal(alive, 1);
    refused = false;
    engine_catch_up(engine);
    for (int i = 0; i < 3; i++) {
        assert_true(comes(&jobs[i].begun));
    }
    assert_true(alive <= 4); /* some may have gone again */
    sem_post(&hung.leave);
    engine_free(engine);

    engine = engine_new(4, ENGINE_THREADS);
    refused = true;
    submit(engine, &hung, &owners[4]);
    assert_true(comes(&hung.begun));
    for (int i = 0; i < 4; i++) {
        refused = i < 3; /* the last one finds the bound reached by those that wait */
        submit(engine, &jobs[i], &owners[i]);
        sem_post(&jobs[i].leave);
    }
    for (int i = 0; i < 4; i++) {
        assert_true(comes(&jobs[i].begun));
    }
    sem_post(&hung.leave);
    engine_free(engine);
    assert_int_equal(alive, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_goes_without_any, set_up),
        cmocka_unit_test_setup(a_submitter_never_runs_jobs, set_up),
        cmocka_unit_test_setup(others_go_on_once_threads_can_be_started, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
