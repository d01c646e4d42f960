#include "storage/engine.h"
#include "tests/unit/comes.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
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
    EngineLane *lane;
    _Atomic int *done; /* counted: how many are */
    int result;
    int left; /* rounds that are to come */
} TestIo;

static void transferred(EngineIo *io, int result)
{
    TestIo *test = (TestIo *)io;

    test->result |= result;
    atomic_fetch_add(test->done, 1);
}

/* Microseconds. */
#define LOOK_AGAIN 1000

static void threads_alone_leave_transfers_to_jobs(void **state)
{
    Engine *engine = engine_new(4, ENGINE_THREADS);

    EngineLane lane;

    engine_lane_init(&lane, engine);
    assert_false(engine_lane_can_io(&lane));
    engine_lane_clear(&lane);
    engine_free(engine);
}

static void require_ring(void **state, EngineLane *lane)
{
    engine_lane_init(lane, engine_new(4, kind_of(state)));
    if (!engine_lane_can_io(lane)) {
        engine_free(lane->engine);
        skip();
    }
}

static void free_both(EngineLane *lane)
{
    engine_lane_clear(lane);
    engine_free(lane->engine);
}

static int transfer(EngineLane *lane, bool write, int fd, void *buffer, size_t length,
                    uint64_t offset)
{
    _Atomic int done = 0;
    TestIo test = {.io = {.done = transferred,
                          .write = write,
                          .fd = fd,
                          .buffer = buffer,
                          .length = length,
                          .offset = offset},
                   .done = &done};

    engine_submit_io(lane, &test.io);
    while (done == 0) {
        engine_lane_poll(lane, NULL, 0, LOOK_AGAIN);
    }
    return test.result;
}

static void transfers_move_everything_or_fail(void **state)
{
    EngineLane lane;
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 3 << 20);
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    g_autofree char *data = g_malloc(1 << 20), *back = g_malloc0(1 << 20);

    require_ring(state, &lane);
    memset(data, 'r', 1 << 20);
    assert_int_equal(transfer(&lane, true, fd, data, 1 << 20, 12345), 0);
    assert_int_equal(pread(fd, back, 1 << 20, 12345), 1 << 20);
    assert_memory_equal(data, back, 1 << 20);
    memset(back, 0, 1 << 20);
    assert_int_equal(fdatasync(fd), 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    assert_int_equal(transfer(&lane, false, fd, back, 1 << 20, 12345), 0);
    assert_memory_equal(data, back, 1 << 20);

    assert_int_equal(transfer(&lane, false, fd, back, 4096, (3 << 20) - 100), -EIO);
    assert_int_equal(transfer(&lane, false, fd, back, 4096, 4 << 20), -EIO);
    close(fd);
    assert_int_equal(transfer(&lane, false, fd, back, 1, 0), -EBADF);
    free_both(&lane);
}

/* A write that passes the limit of the file's size is cut there, and refused past it. */
static void check_cut_short(EngineLane *lane)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 0);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct rlimit limit, small;
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    char data[8192] = "long enough";

    assert_int_equal(sigaction(SIGXFSZ, &ignore, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){.rlim_cur = 5000, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(transfer(lane, true, fd, data, 8192, 0), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), 5000);
    close(fd);
}

/* However busy the threads are: their jobs may wait for it. */
static void what_was_cut_short_is_finished(void **state)
{
    EngineLane lane;
    HeldJob held[4];
    sem_t started, leave, ended;

    require_ring(state, &lane);
    check_cut_short(&lane);
    sem_init(&started, 0, 0);
    sem_init(&leave, 0, 0);
    sem_init(&ended, 0, 0);
    for (int i = 0; i < 4; i++) {
        held[i] =
            (HeldJob){.job.run = be_held, .started = &started, .leave = &leave, .ended = &ended};
        engine_submit(lane.engine, &held[i].job);
        wait_for(&started);
    }
    check_cut_short(&lane);
    for (int i = 0; i < 4; i++) {
        sem_post(&leave);
    }
    free_both(&lane);
}

/* Many at once, more than the ring has room for, again and again. */
static void many_transfers_at_once(void **state)
{
    EngineLane lane;
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 1 << 20);
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC), count = 700;
    TestIo **tests = calloc((size_t)count, sizeof *tests);
    _Atomic int done = 0;

    require_ring(state, &lane);
    for (int i = 0; i < count; i++) {
        tests[i] = calloc(1, sizeof(TestIo) + 512);
        *tests[i] = (TestIo){.io = {.done = transferred, .fd = fd}, .done = &done};
    }
    for (int round = 1; round <= 20; round++) {
        for (int i = 0; i < count; i++) {
            tests[i]->io.length = 512;
            tests[i]->io.buffer = tests[i] + 1;
            tests[i]->io.offset = (uint64_t)(i + round) % 2048 * 512;
            engine_submit_io(&lane, &tests[i]->io);
        }
        while (done < count * round) {
            engine_lane_poll(&lane, NULL, 0, LOOK_AGAIN);
        }
    }
    assert_false(engine_lane_is_busy(&lane));
    for (int i = 0; i < count; i++) {
        assert_int_equal(tests[i]->result, 0);
        free(tests[i]);
    }
    free(tests);
    free_both(&lane);
    close(fd);
}

/* No more at once than it can be answered for, however many it may be asked for. */
static void a_ring_is_not_filled_beyond_its_answers(void **state)
{
    EngineLane lane;
    int fds[2], count = 0;
    _Atomic int done = 0;
    TestIo *tests = calloc(1024, sizeof *tests);
    char bytes[1024] = "";

    require_ring(state, &lane);
    assert_int_equal(pipe(fds), 0);
    for (; count < 1024 && engine_lane_can_io(&lane); count++) {
        tests[count] = (TestIo){
            .io = {.done = transferred, .fd = fds[0], .buffer = bytes + count, .length = 1},
            .done = &done};
        engine_submit_io(&lane, &tests[count].io);
    }
    assert_in_range(count, 256, 512);
    assert_int_equal(write(fds[1], bytes, (size_t)count), count);
    while (done < count) {
        engine_lane_poll(&lane, NULL, 0, LOOK_AGAIN);
    }
    assert_true(engine_lane_can_io(&lane));
    free(tests);
    free_both(&lane);
    close(fds[0]);
    close(fds[1]);
}

static void clearing_waits_for_transfers(void **state)
{
    EngineLane lane;
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, 1 << 20);
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);
    _Atomic int done = 0;
    TestIo tests[32];
    char data[32][512];

    require_ring(state, &lane);
    for (int turn = 1; turn <= 2; turn++) {
        assert_true(engine_lane_can_io(&lane)); /* again, after it was cleared */
        for (int i = 0; i < 32; i++) {
            tests[i] = (TestIo){.io = {.done = transferred,
                                       .fd = fd,
                                       .buffer = data[i],
                                       .length = 512,
                                       .offset = (uint64_t)i * 8192},
                                .done = &done};
            engine_submit_io(&lane, &tests[i].io);
        }
        engine_lane_clear(&lane);
        assert_int_equal(done, turn * 32);
    }
    free_both(&lane);
    close(fd);
}

/* --- waiting for transfers and descriptors at once --- */

/* A transfer that ends when the test writes into the pipe. */
typedef struct {
    EngineLane lane;
    int pipe[2], events[2];
    TestIo test;
    _Atomic int done;
    char byte;
} Waits;

static void waits_begin(void **state, Waits *waits)
{
    *waits = (Waits){.done = 0};
    require_ring(state, &waits->lane);
    assert_int_equal(pipe(waits->pipe), 0);
    for (int i = 0; i < 2; i++) {
        waits->events[i] = eventfd(0, EFD_CLOEXEC);
    }
    waits->test = (TestIo){
        .io = {.done = transferred, .fd = waits->pipe[0], .buffer = &waits->byte, .length = 1},
        .done = &waits->done};
    engine_submit_io(&waits->lane, &waits->test.io);
    assert_true(engine_lane_is_busy(&waits->lane));
}

static void waits_end(Waits *waits)
{
    assert_int_equal(write(waits->pipe[1], "x", 1), 1);
    free_both(&waits->lane);
    assert_int_equal(waits->done, 1);
    for (int i = 0; i < 2; i++) {
        close(waits->pipe[i]);
        close(waits->events[i]);
    }
}

/* 1: the first descriptor, 2: the second. */
static int happened(Waits *waits, short first, short second, gint64 timeout)
{
    struct pollfd fds[2] = {
        {.fd = first ? waits->events[0] : -1, .events = first},
        {.fd = second ? waits->events[1] : -1, .events = second},
    };

    engine_lane_poll(&waits->lane, fds, 2, timeout);
    return (fds[0].revents != 0 ? 1 : 0) | (fds[1].revents != 0 ? 2 : 0);
}

static void a_wait_ends_for_each_reason(void **state)
{
    Waits waits;
    gint64 start = g_get_monotonic_time();
    eventfd_t value;

    waits_begin(state, &waits);
    assert_int_equal(happened(&waits, POLLIN, POLLIN, 20000), 0);
    assert_true(g_get_monotonic_time() - start >= 20000);
    assert_int_equal(eventfd_write(waits.events[1], 1), 0);
    assert_int_equal(happened(&waits, POLLIN, POLLIN, -1), 2);
    /* Not read: it is told again. */
    assert_int_equal(happened(&waits, POLLIN, POLLIN, -1), 2);
    assert_int_equal(eventfd_read(waits.events[1], &value), 0);
    assert_int_equal(eventfd_write(waits.events[0], 1), 0);
    assert_int_equal(happened(&waits, POLLIN, 0, -1), 1);
    assert_int_equal(waits.done, 0);
    assert_int_equal(eventfd_read(waits.events[0], &value), 0);
    while (happened(&waits, POLLIN, POLLIN, 1000) != 0) {
    }
    assert_int_equal(write(waits.pipe[1], "x", 1), 1);
    assert_int_equal(happened(&waits, POLLIN, POLLIN, -1), 0);
    assert_int_equal(waits.done, 1);
    assert_false(engine_lane_is_busy(&waits.lane));
    /* Without transfers it is poll(2). */
    assert_int_equal(eventfd_write(waits.events[1], 1), 0);
    assert_int_equal(happened(&waits, POLLIN, POLLIN, -1), 2);
    free_both(&waits.lane);
}

static void other_events_of_a_descriptor(void **state)
{
    Waits waits;

    waits_begin(state, &waits);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(happened(&waits, 0, POLLIN, 0), 0);
        assert_int_equal(happened(&waits, 0, POLLOUT, -1), 2);
    }
    /* One that was looked at and is left out now. */
    assert_int_equal(eventfd_write(waits.events[1], 1), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(happened(&waits, POLLIN, 0, 1000), 0);
    }
    assert_int_equal(happened(&waits, POLLIN, POLLIN, -1), 2);
    waits_end(&waits);
}

/* How many waits for that it takes until one lasts for all of its 20 ms. */
static int ends_of(Waits *waits, int fd, short events)
{
    gint64 start;
    int ends = 0;

    do {
        struct pollfd fds[2] = {{.fd = -1}, {.fd = fd, .events = events}};

        start = g_get_monotonic_time();
        engine_lane_poll(&waits->lane, fds, 2, 20000);
        assert_int_equal(fds[1].revents, 0);
        ends++;
    } while (g_get_monotonic_time() - start < 20000 && ends < 1000);
    return ends;
}

/* A peer that has closed its direction is told of when asked for, and else no wait ends for it. */
static void the_end_of_one_direction(void **state)
{
    Waits waits;
    int sockets[2];
    char data[65536] = "";

    waits_begin(state, &waits);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    assert_int_equal(shutdown(sockets[1], SHUT_WR), 0);
    for (int i = 0; i < 2; i++) {
        struct pollfd fds[2] = {{.fd = -1}, {.fd = sockets[0], .events = POLLRDHUP}};

        engine_lane_poll(&waits.lane, fds, 2, -1);
        assert_int_equal(fds[1].revents, POLLRDHUP);
    }
    assert_in_range(ends_of(&waits, sockets[0], 0), 1, 3);
    while (send(sockets[0], data, sizeof data, MSG_DONTWAIT) > 0) {
    }
    assert_in_range(ends_of(&waits, sockets[0], POLLOUT), 1, 3);

    /* All else is told as before. */
    assert_true(recv(sockets[1], data, sizeof data, 0) > 0);
    while (recv(sockets[1], data, sizeof data, MSG_DONTWAIT) > 0) {
    }
    struct pollfd fds[2] = {{.fd = waits.events[0], .events = POLLIN},
                            {.fd = sockets[0], .events = POLLOUT}};
    engine_lane_poll(&waits.lane, fds, 2, -1);
    assert_int_equal(fds[0].revents, 0);
    assert_int_equal(fds[1].revents, POLLOUT);
    assert_int_equal(waits.done, 0);
    assert_int_equal(write(waits.pipe[1], "x", 1), 1);
    engine_lane_poll(&waits.lane, NULL, 0, -1);
    assert_int_equal(waits.done, 1);
    free_both(&waits.lane);
    close(sockets[0]);
    close(sockets[1]);
}

/* The other end of a socket that was looked at hears of its end at once. */
static void nothing_is_looked_at_afterwards(void **state)
{
    Waits waits;
    int sockets[2];
    char byte;

    waits_begin(state, &waits);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    struct pollfd fds[2] = {{.fd = -1}, {.fd = sockets[0], .events = POLLIN}};
    engine_lane_poll(&waits.lane, fds, 2, 1000);
    /* What would have ended a wait is over, and nobody has waited: such a one is hard to get rid
     * of. */
    assert_int_equal(write(sockets[1], "x", 1), 1);
    assert_int_equal(read(sockets[0], &byte, 1), 1);
    assert_int_equal(write(waits.pipe[1], "x", 1), 1);
    engine_lane_clear(&waits.lane);
    close(sockets[0]);
    assert_int_equal(recv(sockets[1], &byte, 1, MSG_DONTWAIT), 0);
    close(sockets[1]);
    free_both(&waits.lane);
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
        ON(a_ring_is_not_filled_beyond_its_answers, ENGINE_AUTO),
        ON(clearing_waits_for_transfers, ENGINE_AUTO),
        ON(a_wait_ends_for_each_reason, ENGINE_AUTO),
        ON(other_events_of_a_descriptor, ENGINE_AUTO),
        ON(the_end_of_one_direction, ENGINE_AUTO),
        ON(nothing_is_looked_at_afterwards, ENGINE_AUTO),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
