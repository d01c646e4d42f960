/* fdatasync is the one below (see meson.build): it counts, takes its time, and fails on demand. */
#include "storage/sync_group.h"
#include "tests/unit/check.h"
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static _Atomic int syncs, sync_errno;
static sem_t entered, leave;
static _Atomic bool held;

int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    atomic_fetch_add(&syncs, 1);
    if (held) {
        sem_post(&entered);
        sem_wait(&leave);
    }
    errno = sync_errno;
    return sync_errno != 0 ? -1 : 0;
}

static int set_up(void **state)
{
    static SyncGroup group;

    syncs = 0;
    sync_errno = 0;
    held = false;
    sem_init(&entered, 0, 0);
    sem_init(&leave, 0, 0);
    sync_group_init(&group);
    *state = &group;
    return 0;
}

static int tear_down(void **state)
{
    sync_group_destroy(*state);
    return 0;
}

static void *sync_thread(void *group)
{
    return (void *)(intptr_t)sync_group_sync(group, -1);
}

static void wait_for_callers(SyncGroup *group, unsigned callers)
{
    unsigned now = 0;

    while (now != callers) {
        pthread_mutex_lock(&group->lock);
        now = group->callers;
        pthread_mutex_unlock(&group->lock);
        usleep(100);
    }
}

static void one_after_the_other_each_syncs(void **state)
{
    assert_int_equal(sync_group_sync(*state, -1), 0);
    assert_int_equal(sync_group_sync(*state, -1), 0);
    assert_int_equal(syncs, 2);
}

#define FOLLOWERS 8

/* Those who come while one runs are not served by it, but all together by the next. */
static void who_waits_together_shares_one(void **state)
{
    pthread_t first, followers[FOLLOWERS];
    void *result;

    held = true;
    pthread_create(&first, NULL, sync_thread, *state);
    sem_wait(&entered);
    for (int i = 0; i < FOLLOWERS; i++) {
        pthread_create(&followers[i], NULL, sync_thread, *state);
    }
    wait_for_callers(*state, 1 + FOLLOWERS);
    sem_post(&leave); /* the first one ends; a follower leads the next */
    sem_wait(&entered);
    pthread_join(first, &result);
    assert_null(result);
    held = false;
    sem_post(&leave);
    for (int i = 0; i < FOLLOWERS; i++) {
        pthread_join(followers[i], &result);
        assert_null(result);
    }
    assert_int_equal(syncs, 2);
}

static void a_failure_is_told_to_all_and_kept(void **state)
{
    pthread_t first, second;
    void *result;

    held = true;
    sync_errno = ENOSPC;
    pthread_create(&first, NULL, sync_thread, *state);
    sem_wait(&entered);
    pthread_create(&second, NULL, sync_thread, *state);
    wait_for_callers(*state, 2);
    held = false;
    sem_post(&leave);
    pthread_join(first, &result);
    assert_int_equal((intptr_t)result, -ENOSPC);
    pthread_join(second, &result);
    assert_int_equal((intptr_t)result, -EIO);
    assert_int_equal(syncs, 1);
    sync_errno = 0;
    assert_int_equal(sync_group_sync(*state, -1), -EIO);
    assert_int_equal(sync_group_check(*state), -EIO);
    assert_int_equal(syncs, 1);
}

static void a_failure_elsewhere_counts(void **state)
{
    sync_group_fail(*state);
    assert_int_equal(sync_group_sync(*state, -1), -EIO);
    assert_int_equal(syncs, 0);
}

/* --- those who do not wait --- */

typedef struct {
    SyncWaiter waiter;
    int result;
    bool done;
} TestWaiter;

static sem_t answered;

static void answer(SyncWaiter *waiter, int result)
{
    TestWaiter *test = (TestWaiter *)waiter;

    test->result = result;
    test->done = true;
    sem_post(&answered);
}

static void ask(SyncGroup *group, Engine *engine, TestWaiter *test)
{
    *test = (TestWaiter){.waiter.done = answer, .result = 1};
    sync_group_submit(group, -1, engine, NULL, &test->waiter);
}

static void wait_for_answers(unsigned count)
{
    for (; count > 0; count--) {
        while (sem_wait(&answered) != 0) {
        }
    }
}

static sem_t passed;

static void pass(EngineJob *job)
{
    sem_post(&passed);
}

/* The first sync is held. Those who ask meanwhile take no thread: of two, one is free for others.
 * They are not served by it, but all together by the next. */
static void who_does_not_wait_takes_no_thread(void **state)
{
    Engine *engine = engine_new(2, ENGINE_THREADS);
    TestWaiter first, others[FOLLOWERS];
    EngineJob job = {.run = pass};

    sem_init(&answered, 0, 0);
    sem_init(&passed, 0, 0);
    held = true;
    ask(*state, engine, &first);
    sem_wait(&entered);
    for (int i = 0; i < FOLLOWERS; i++) {
        ask(*state, engine, &others[i]);
    }
    engine_submit(engine, &job);
    while (sem_wait(&passed) != 0) {
    }
    sem_post(&leave);
    sem_wait(&entered);
    wait_for_answers(1);
    assert_true(first.done);
    for (int i = 0; i < FOLLOWERS; i++) {
        assert_false(others[i].done);
    }
    held = false;
    sem_post(&leave);
    wait_for_answers(FOLLOWERS);
    for (int i = 0; i < FOLLOWERS; i++) {
        assert_int_equal(others[i].result, 0);
    }
    assert_int_equal(first.result, 0);
    assert_int_equal(syncs, 2);
    engine_free(engine);
}

/* One who waits and one who does not, both while a sync runs: the next one serves both. */
static void both_kinds_share(void **state)
{
    Engine *engine = engine_new(2, ENGINE_THREADS);
    TestWaiter later;
    pthread_t first, second;
    void *result;

    sem_init(&answered, 0, 0);
    held = true;
    pthread_create(&first, NULL, sync_thread, *state);
    sem_wait(&entered);
    ask(*state, engine, &later);
    pthread_create(&second, NULL, sync_thread, *state);
    wait_for_callers(*state, 3);
    held = false;
    sem_post(&leave);
    pthread_join(first, &result);
    assert_null(result);
    pthread_join(second, &result);
    assert_null(result);
    wait_for_answers(1);
    assert_int_equal(later.result, 0);
    assert_int_equal(syncs, 2);
    engine_free(engine);
}

static void who_does_not_wait_is_told_of_a_failure(void **state)
{
    Engine *engine = engine_new(2, ENGINE_THREADS);
    TestWaiter first, second;

    sem_init(&answered, 0, 0);
    held = true;
    sync_errno = ENOSPC;
    ask(*state, engine, &first);
    sem_wait(&entered);
    ask(*state, engine, &second);
    held = false;
    sem_post(&leave);
    wait_for_answers(2);
    assert_int_equal(first.result, -ENOSPC);
    assert_int_equal(second.result, -EIO);
    sync_errno = 0;
    ask(*state, engine, &first);
    wait_for_answers(1);
    assert_int_equal(first.result, -EIO);
    assert_int_equal(syncs, 1);
    engine_free(engine);
}

typedef struct {
    TestWaiter test;
    Engine *engine;
    SyncGroup *group;
    int left;
} Chain;

static void ask_again(SyncWaiter *waiter, int result)
{
    Chain *chain = (Chain *)waiter;

    chain->test.result |= result;
    if (chain->left-- > 0) {
        sync_group_submit(chain->group, -1, chain->engine, chain->group, waiter);
    } else {
        sem_post(&answered);
    }
}

/* Asked again from the answer itself; and the group goes with the last answer. */
static void many_ask_at_once(void **state)
{
    Engine *engine = engine_new(4, ENGINE_THREADS);

    sem_init(&answered, 0, 0);
    for (int round = 0; round < 20; round++) {
        SyncGroup *group = g_new(SyncGroup, 1);
        Chain chains[FOLLOWERS];

        sync_group_init(group);
        for (int i = 0; i < FOLLOWERS; i++) {
            chains[i] = (Chain){.engine = engine, .group = group, .left = 100};
            chains[i].test.waiter.done = ask_again;
            sync_group_submit(group, -1, engine, group, &chains[i].test.waiter);
        }
        for (int i = 0; i < 100; i++) {
            assert_int_equal(sync_group_sync(group, -1), 0);
        }
        wait_for_answers(FOLLOWERS);
        sync_group_destroy(group);
        memset(group, 0xee, sizeof *group);
        g_free(group);
        for (int i = 0; i < FOLLOWERS; i++) {
            assert_int_equal(chains[i].test.result, 0);
        }
    }
    engine_free(engine);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_after_the_other_each_syncs),         TEST(who_waits_together_shares_one),
        TEST(a_failure_is_told_to_all_and_kept),      TEST(a_failure_elsewhere_counts),
        TEST(who_does_not_wait_takes_no_thread),      TEST(both_kinds_share),
        TEST(who_does_not_wait_is_told_of_a_failure), TEST(many_ask_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
