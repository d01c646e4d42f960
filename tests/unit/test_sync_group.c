/* fdatasync is the one below (see meson.build): it counts, takes its time, and fails on demand. */
#include "storage/sync_group.h"
#include "tests/unit/check.h"
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_after_the_other_each_syncs),
        TEST(who_waits_together_shares_one),
        TEST(a_failure_is_told_to_all_and_kept),
        TEST(a_failure_elsewhere_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
