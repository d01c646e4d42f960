#include "storage/engine.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static EngineKind kind_of(void **state)
{
    return (EngineKind)(uintptr_t)*state;
}

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
    Engine *engine = engine_new(4, kind_of(state));

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
    Engine *engine = engine_new(8, kind_of(state));
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
    Engine *engine = engine_new(3, kind_of(state));
    BusyJob jobs[40];

    for (int i = 0; i < 40; i++) {
        jobs[i] = (BusyJob){.job.run = be_busy, .running = &running, .most = &most};
        engine_submit(engine, &jobs[i].job);
    }
    engine_free(engine);
    assert_int_equal(running, 0);
    assert_in_range(most, 1, 3);
}

/* --- fairness --- */

typedef struct {
    EngineJob job;
    sem_t *started, *leave, *ended;
} HeldJob;

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0) {
    }
}

static void be_held(EngineJob *job)
{
    HeldJob *held = (HeldJob *)job;

    sem_post(held->started);
    wait_for(held->leave);
    sem_post(held->ended);
}

static void announce(EngineJob *job)
{
    sem_post(((HeldJob *)job)->started);
}

/* Whether it came within a time that is only ever used up by a failure. */
static bool comes(sem_t *semaphore)
{
    struct timespec until;
    int result;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    do {
        result = sem_timedwait(semaphore, &until);
    } while (result != 0 && errno == EINTR);
    return result == 0;
}

/* However much hangs of one owner, others are run, and no more of it than its share is. */
static void owners_that_hang_leave_threads(void **state)
{
    static const char one, other;
    Engine *engine = engine_new(8, kind_of(state));
    sem_t started, leave, ended, quick;
    HeldJob held[100], jobs[20];
    int running;

    sem_init(&started, 0, 0);
    sem_init(&leave, 0, 0);
    sem_init(&ended, 0, 0);
    sem_init(&quick, 0, 0);
    for (int i = 0; i < 100; i++) {
        held[i] = (HeldJob){.job = {.run = be_held, .owner = &one},
                            .started = &started,
                            .leave = &leave,
                            .ended = &ended};
        engine_submit(engine, &held[i].job);
    }
    for (int i = 0; i < 20; i++) {
        jobs[i] =
            (HeldJob){.job = {.run = announce, .owner = i % 2 ? &other : NULL}, .started = &quick};
        engine_submit(engine, &jobs[i].job);
    }
    for (int i = 0; i < 20; i++) {
        assert_true(comes(&quick));
    }
    for (int i = 0; i < 4; i++) {
        wait_for(&started);
    }
    assert_int_equal(sem_getvalue(&started, &running), 0);
    assert_int_equal(running, 0);
    for (int i = 0; i < 100; i++) {
        sem_post(&leave);
    }
    engine_free(engine);
    assert_int_equal(sem_getvalue(&ended, &running), 0);
    assert_int_equal(running, 100);
}

/* When one job ends two are let through (test_fair_queue.c); one of them needs a new thread. */
static void an_end_starts_all_that_it_lets_through(void **state)
{
    static const char owners[2];
    Engine *engine = engine_new(7, kind_of(state));
    sem_t started, leave_first, leave, ended;
    HeldJob jobs[6];

    sem_init(&started, 0, 0);
    sem_init(&leave_first, 0, 0);
    sem_init(&leave, 0, 0);
    sem_init(&ended, 0, 0);
    for (int i = 0; i < 6; i++) {
        jobs[i] = (HeldJob){.job = {.run = be_held, .owner = &owners[i % 2]},
                            .started = &started,
                            .leave = i == 1 ? &leave_first : &leave,
                            .ended = &ended};
        engine_submit(engine, &jobs[i].job);
    }
    for (int i = 0; i < 4; i++) {
        assert_true(comes(&started));
    }
    sem_post(&leave_first);
    assert_true(comes(&started));
    assert_true(comes(&started));
    for (int i = 0; i < 5; i++) {
        sem_post(&leave);
    }
    engine_free(engine);
}

static void *submit_many(void *data)
{
    void **arguments = data;

    for (int i = 0; i < 1000; i++) {
        TestJob *test = calloc(1, sizeof(TestJob));

        test->job.run = count_one;
        test->job.owner = i % 7 ? (char *)data + i % 7 : NULL; /* any pointer */
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
    Engine *engine = engine_new(4, kind_of(state));
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
    Engine *engine = engine_new(0, kind_of(state));

    if (kind_of(state) == ENGINE_THREADS) {
        assert_string_equal(engine_name(engine), "threads");
    }
    engine_free(engine);
    engine_free(NULL);
}

/* --- plain transfers, where there is a ring --- */

typedef struct {
    EngineIo io;
    Engine *engine;
    sem_t *semaphore;
    int result;
    int left; /* rounds that it starts itself again */
} TestIo;

static void transferred(EngineIo *io, int result)
{
    TestIo *test = (TestIo *)io;

    test->result = result;
    sem_post(test->semaphore);
}

static void threads_alone_leave_transfers_to_jobs(void **state)
{
    Engine *engine = engine_new(4, ENGINE_THREADS);

    assert_false(engine_can_io(engine));
    engine_free(engine);
}

static Engine *require_ring(void **state)
{
    Engine *engine = engine_new(4, kind_of(state));

    if (!engine_can_io(engine)) {
        engine_free(engine);
        skip();
    }
    return engine;
}

static int transfer(Engine *engine, bool write, int fd, void *buffer, size_t length,
                    uint64_t offset)
{
    sem_t semaphore;
    TestIo test = {.io = {.done = transferred,
                          .write = write,
                          .fd = fd,
                          .buffer = buffer,
                          .length = length,
                          .offset = offset},
                   .semaphore = &semaphore};

    sem_init(&semaphore, 0, 0);
    engine_submit_io(engine, &test.io);
    while (sem_wait(&semaphore) != 0) {
    }
    sem_destroy(&semaphore);
    return test.result;
}

static void transfers_move_everything_or_fail(void **state)
{
    Engine *engine = require_ring(state);
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 3 << 20);
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    g_autofree char *data = g_malloc(1 << 20), *back = g_malloc0(1 << 20);

    memset(data, 'r', 1 << 20);
    assert_int_equal(transfer(engine, true, fd, data, 1 << 20, 12345), 0);
    assert_int_equal(pread(fd, back, 1 << 20, 12345), 1 << 20);
    assert_memory_equal(data, back, 1 << 20);
    memset(back, 0, 1 << 20);
    assert_int_equal(fdatasync(fd), 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    assert_int_equal(transfer(engine, false, fd, back, 1 << 20, 12345), 0);
    assert_memory_equal(data, back, 1 << 20);

    assert_int_equal(transfer(engine, false, fd, back, 4096, (3 << 20) - 100), -EIO);
    assert_int_equal(transfer(engine, false, fd, back, 4096, 4 << 20), -EIO);
    close(fd);
    assert_int_equal(transfer(engine, false, fd, back, 1, 0), -EBADF);
    engine_free(engine);
}

static void what_was_cut_short_is_finished(void **state)
{
    Engine *engine = require_ring(state);
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 0);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct rlimit limit, small;
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    char data[8192] = "long enough";

    /* A write that passes the limit of the file's size is cut there, and refused past it. */
    assert_int_equal(sigaction(SIGXFSZ, &ignore, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){.rlim_cur = 5000, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(transfer(engine, true, fd, data, 8192, 0), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), 5000);
    close(fd);
    engine_free(engine);
}

static void start_again(EngineIo *io, int result)
{
    TestIo *test = (TestIo *)io;

    test->result |= result;
    if (test->left-- > 0) {
        io->length = 512;
        io->buffer = test + 1;
        io->offset = (uint64_t)test->left * 512;
        engine_submit_io(test->engine, io);
    } else {
        sem_post(test->semaphore);
    }
}

/* Many at once, each started again by its own completion. */
static void many_transfers_at_once(void **state)
{
    Engine *engine = require_ring(state);
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 1 << 20);
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    TestIo *tests[300];
    sem_t semaphore;

    sem_init(&semaphore, 0, 0);
    for (int i = 0; i < 300; i++) {
        tests[i] = calloc(1, sizeof(TestIo) + 512);
        *tests[i] = (TestIo){.io = {.done = start_again, .fd = fd},
                             .engine = engine,
                             .semaphore = &semaphore,
                             .left = 20};
        start_again(&tests[i]->io, 0);
    }
    for (int i = 0; i < 300; i++) {
        while (sem_wait(&semaphore) != 0) {
        }
    }
    engine_free(engine);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(tests[i]->result, 0);
        assert_int_equal(tests[i]->left, -1);
        free(tests[i]);
    }
    sem_destroy(&semaphore);
    close(fd);
}

static void freeing_waits_for_transfers(void **state)
{
    Engine *engine = require_ring(state);
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 1 << 20);
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    sem_t semaphore;
    TestIo tests[32];
    char data[32][512];
    int done;

    sem_init(&semaphore, 0, 0);
    for (int i = 0; i < 32; i++) {
        tests[i] = (TestIo){.io = {.done = transferred,
                                   .fd = fd,
                                   .buffer = data[i],
                                   .length = 512,
                                   .offset = (uint64_t)i * 8192},
                            .semaphore = &semaphore};
        engine_submit_io(engine, &tests[i].io);
    }
    engine_free(engine);
    assert_int_equal(sem_getvalue(&semaphore, &done), 0);
    assert_int_equal(done, 32);
    sem_destroy(&semaphore);
    close(fd);
}

#define ON(test, kind)                                                                             \
    {                                                                                              \
        .name = #test " with " #kind, .test_func = test, .initial_state = (void *)(uintptr_t)kind  \
    }
#define ON_BOTH(test) ON(test, ENGINE_THREADS), ON(test, ENGINE_AUTO)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(every_job_runs_once),
        ON_BOTH(jobs_overlap_up_to_the_bound),
        ON_BOTH(threads_are_bounded),
        ON_BOTH(owners_that_hang_leave_threads),
        ON_BOTH(an_end_starts_all_that_it_lets_through),
        ON_BOTH(many_may_submit_at_once),
        ON_BOTH(an_unused_engine_goes_quietly),
        cmocka_unit_test(threads_alone_leave_transfers_to_jobs),
        ON(transfers_move_everything_or_fail, ENGINE_AUTO),
        ON(what_was_cut_short_is_finished, ENGINE_AUTO),
        ON(many_transfers_at_once, ENGINE_AUTO),
        ON(freeing_waits_for_transfers, ENGINE_AUTO),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
