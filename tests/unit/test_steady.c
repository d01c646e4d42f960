/* A write to blocks that are on record already costs no lock and no system call for tracking: both
 * are counted, the calls by a filter on the writing thread under which they all trap. What may cost
 * a lock is the first write to a region, also to one that was put on record ahead of a stream. */
#include "storage/disk_private.h"
#include "tests/unit/world.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define WRITES 10000
#define SIZE   (16 * MiB)

static _Thread_local unsigned locks;
static volatile sig_atomic_t calls, last_call;

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
int __real_pthread_rwlock_wrlock(pthread_rwlock_t *lock);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    locks++;
    return __real_pthread_mutex_lock(mutex);
}

int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    locks++;
    return __real_pthread_rwlock_rdlock(lock);
}

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    locks++;
    return __real_pthread_rwlock_wrlock(lock);
}

static void on_call(int number, siginfo_t *info, void *context)
{
    calls++;
    last_call = info->si_syscall;
}

/* From here on every call of this thread traps but those by which it ends, and the clock's, which
 * is none on the machines that have a clock for user space. */
static bool trap_calls(void)
{
#define ALLOW(name)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1),                                         \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(clock_gettime),
        ALLOW(rt_sigreturn),
        ALLOW(rt_sigprocmask),
        ALLOW(madvise),
        ALLOW(munmap),
        ALLOW(exit),
        ALLOW(exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
#undef ALLOW
    struct sock_fprog program = {.len = G_N_ELEMENTS(filter), .filter = filter};
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO};
    return sigaction(SIGSYS, &action, NULL) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

typedef struct {
    World *world;
    bool trapped;
    int failed, calls, control;
    unsigned locks;
} Run;

static void *write_much(void *data)
{
    Run *run = data;
    run->trapped = trap_calls();
    uint64_t random = 88172645463325252u;
    calls = 0;
    locks = 0;
    for (unsigned i = 0; run->trapped && i < WRITES; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        /* Short and long ones, over the borders of regions, too. */
        uint64_t length = 512 << (i % 9), offset = random % (SIZE - length);
        int rc = disk_write_begin(run->world->disk, offset, length, i % 2 ? IO_NOWAIT : 0);
        if (rc < 0)
            run->failed = rc;
        else
            disk_write_end(run->world->disk);
    }
    run->calls = calls;
    run->locks = locks;
    syscall(SYS_getppid); /* the filter is there */
    run->control = calls - run->calls;
    return NULL;
}

static void check_free(World *world)
{
    Run run = {.world = world};
    StoreStats before, after;
    pthread_t thread;
    store_get_stats(world->store, &before);
    assert_int_equal(pthread_create(&thread, NULL, write_much, &run), 0);
    pthread_join(thread, NULL);
    store_get_stats(world->store, &after);
    if (!run.trapped)
        skip(); /* no filters to be had here */
    assert_int_equal(run.failed, 0);
    if (run.calls != 0)
        fail_msg("%d system calls, the last one number %d", run.calls, (int)last_call);
    assert_int_equal(run.control, 1);
    assert_int_equal(run.locks, 0);
    assert_int_equal(after.commits, before.commits);
    assert_int_equal(after.syncs, before.syncs);
    assert_int_equal(after.intents_added, before.intents_added);
}

static World *new_world(void)
{
    World *world = world_new(SIZE);
    world_close(world);
    world->options.region_size = MiB;
    world->options.checkpoint_seconds = 3600; /* nothing retires meanwhile */
    world_open(world);
    world_add(world, "fine", 512);
    world_add(world, "coarse", 65536);
    world_add_durable(world, "process", 4096, DURABILITY_PROCESS);
    world_add_durable(world, "none", 4096, DURABILITY_NONE);
    return world;
}

static void write_all(World *world)
{
    for (uint64_t offset = 0; offset < SIZE; offset += MiB)
        world_write(world, offset, MiB);
}

static void test_free_under_an_intent(void **state)
{
    World *world = new_world();
    for (uint64_t offset = 0; offset < SIZE; offset += MiB)
        world_write(world, offset, 512); /* most bits are yet to be set */
    check_free(world);
    world_free(world);
}

static void test_free_stored_as_dirty(void **state)
{
    World *world = new_world();
    write_all(world);
    world_close(world);
    world_open(world);
    world_write(world, 0, 512); /* takes the clean flag away */
    StoreStats stats;
    store_get_stats(world->store, &stats);
    assert_int_equal(stats.intents_added, 0);
    check_free(world);
    world_free(world);
}

static void test_free_nothing_to_record(void **state)
{
    World *world = world_new(SIZE);
    check_free(world);
    world_free(world);
}

/* What is counted above can be seen. */
static void test_a_first_touch_costs(void **state)
{
    World *world = new_world();
    StoreStats before, after;
    store_get_stats(world->store, &before);
    locks = 0;
    world_write(world, 5 * MiB, 512);
    store_get_stats(world->store, &after);
    assert_true(locks > 0);
    assert_int_equal(after.intents_added, before.intents_added + 1);
    assert_true(after.syncs > before.syncs);
    world_free(world);
}

/* In a region that was given ahead, the first write looks after the stream, and no other. */
static void test_a_region_given_ahead_costs_once(void **state)
{
    World *world = new_world();
    world_write(world, 0, 512);
    world_write(world, MiB, 512); /* a stream: the next one comes with it */
    for (unsigned i = 0; i < 2; i++) {
        locks = 0;
        assert_int_equal(disk_write_begin(world->disk, 2 * MiB, 512, IO_NOWAIT), 0);
        disk_write_end(world->disk);
        assert_int_equal(locks > 0, i == 0);
    }
    world_free(world);
}

/* FLUSH and FUA are the disk's alone. */
static void test_flush_and_fua_leave_the_store_alone(void **state)
{
    static const char data[512];
    World *world = new_world();
    write_all(world);
    StoreStats before, after;
    store_get_stats(world->store, &before);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(disk_pwrite(world->disk, data, sizeof data, i * 4096, IO_FUA), 0);
        assert_int_equal(disk_zero(world->disk, i * 4096, 512, IO_FUA), 0);
        assert_int_equal(disk_flush(world->disk), 0);
    }
    store_get_stats(world->store, &after);
    assert_int_equal(after.commits, before.commits);
    assert_int_equal(after.syncs, before.syncs);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_under_an_intent),
        cmocka_unit_test(test_free_stored_as_dirty),
        cmocka_unit_test(test_free_nothing_to_record),
        cmocka_unit_test(test_a_first_touch_costs),
        cmocka_unit_test(test_a_region_given_ahead_costs_once),
        cmocka_unit_test(test_flush_and_fua_leave_the_store_alone),
    };
    if (SANITIZED)
        cmocka_set_skip_filter("test_free_*"); /* they make calls and take locks of their own */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
