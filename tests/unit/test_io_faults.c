/* The file backend when system calls are interrupted, cut short, refused or fail: the linker puts
 * the functions below in place of the library's (see meson.build). */
#include "storage/fd_backend.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

typedef struct {
    int interrupt;    /* so many calls answer EINTR first */
    bool one_byte;    /* reads and writes move a byte at a time */
    int sync_errno;   /* fdatasync, and RWF_DSYNC once its data is written */
    int write_errno;  /* any write */
    int plain_errno;  /* a write without RWF_DSYNC */
    int dsync_errno;  /* a write with RWF_DSYNC, nothing written */
    int nowait_errno; /* a read with RWF_NOWAIT */
    int punch_errno, zero_range_errno;
    int syncs, dsyncs, writes, reads, nowaits;
    Backend *flushed; /* by another thread, from the next write without RWF_DSYNC on */
    Backend *failing; /* by whom a write with RWF_DSYNC fails during the next one */
} Faults;

static Faults faults;

static bool interrupted(void)
{
    if (faults.interrupt > 0) {
        faults.interrupt--;
        errno = EINTR;
        return true;
    }
    return false;
}

static ssize_t refuse(int errnum)
{
    errno = errnum;
    return -1;
}

ssize_t __real_pread64(int fd, void *buffer, size_t length, off_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off_t offset)
{
    faults.reads++;
    return interrupted() ? -1 : __real_pread64(fd, buffer, faults.one_byte ? 1 : length, offset);
}

ssize_t __real_preadv64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags)
{
    faults.nowaits++;
    if (faults.nowait_errno != 0) {
        return refuse(faults.nowait_errno);
    }
    return interrupted() ? -1 : __real_preadv64v2(fd, pieces, count, offset, flags);
}

ssize_t __real_pwritev64(int fd, const struct iovec *pieces, int count, off_t offset);
static ssize_t write_or_fail(int fd, const struct iovec *pieces, int count, off_t offset)
{
    struct iovec first = {.iov_base = pieces[0].iov_base, .iov_len = 1};

    faults.writes++;
    if (faults.write_errno != 0) {
        return refuse(faults.write_errno);
    }
    if (interrupted()) {
        return -1;
    }
    return faults.one_byte ? __real_pwritev64(fd, &first, 1, offset)
                           : __real_pwritev64(fd, pieces, count, offset);
}

static pthread_t flusher;

static void *flush_it(void *data)
{
    Backend *backend = data;

    return GINT_TO_POINTER(backend->ops->flush(backend));
}

/* Time enough for all of it. */
static void flush_meanwhile(void)
{
    Backend *backend = g_steal_pointer(&faults.flushed);

    if (backend != NULL) {
        assert_int_equal(pthread_create(&flusher, NULL, flush_it, backend), 0);
        g_usleep(100000);
    }
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *pieces, int count, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *pieces, int count, off_t offset)
{
    flush_meanwhile();
    return faults.plain_errno != 0 ? refuse(faults.plain_errno)
                                   : write_or_fail(fd, pieces, count, offset);
}

static void fail_meanwhile(void)
{
    Backend *backend = g_steal_pointer(&faults.failing);

    if (backend != NULL) {
        faults.dsync_errno = EIO;
        assert_int_equal(backend->ops->pwrite(backend, "x", 1, 0, IO_FUA), -EIO);
        faults.dsync_errno = 0;
    }
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags)
{
    ssize_t put;

    assert_int_equal(flags, RWF_DSYNC);
    fail_meanwhile();
    faults.dsyncs++;
    if (faults.dsync_errno != 0) {
        return refuse(faults.dsync_errno);
    }
    put = write_or_fail(fd, pieces, count, offset);
    return put > 0 && faults.sync_errno != 0 ? refuse(faults.sync_errno) : put;
}

int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    if (interrupted()) {
        return -1;
    }
    faults.syncs++;
    return faults.sync_errno != 0 ? (int)refuse(faults.sync_errno) : 0;
}

int __real_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length)
{
    int errnum = (mode & FALLOC_FL_PUNCH_HOLE) ? faults.punch_errno : faults.zero_range_errno;

    if (errnum != 0) {
        return (int)refuse(errnum);
    }
    return interrupted() ? -1 : __real_fallocate64(fd, mode, offset, length);
}

/* --- the tests --- */

#define SIZE 300000

typedef struct {
    Scratch scratch;
    Backend *backend;
} Fixture;

static int set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    faults = (Faults){0};
    fixture->scratch = scratch_file(SCRATCH_MEMORY, SIZE);
    fixture->backend = backend_open(fixture->scratch.path, false, CACHE_WRITEBACK, NULL);
    *state = fixture;
    return fixture->backend == NULL;
}

static int tear_down(void **state)
{
    Fixture *fixture = *state;

    faults = (Faults){0};
    backend_close(fixture->backend);
    scratch_clear(&fixture->scratch);
    g_free(fixture);
    return 0;
}

static Backend *backend_of(void **state)
{
    return ((Fixture *)*state)->backend;
}

static int put(Backend *backend, const char *text, uint64_t offset, unsigned flags)
{
    return backend->ops->pwrite(backend, text, strlen(text), offset, flags);
}

static void expect_text(Backend *backend, const char *text, uint64_t offset)
{
    char data[100];

    assert_int_equal(backend->ops->pread(backend, data, strlen(text), offset, 0), 0);
    assert_memory_equal(data, text, strlen(text));
}

static void expect_bytes(Backend *backend, uint64_t offset, size_t length, char byte)
{
    g_autofree char *data = g_malloc(length);

    assert_int_equal(backend->ops->pread(backend, data, length, offset, 0), 0);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(data[i], byte);
    }
}

static void interruptions_are_not_seen(void **state)
{
    Backend *backend = backend_of(state);
    char data[8];

    faults.interrupt = 2;
    assert_int_equal(put(backend, "interrupted", 5, 0), 0);
    faults.interrupt = 2;
    expect_text(backend, "interrupted", 5);
    faults.interrupt = 1;
    assert_int_equal(put(backend, "again", 5, IO_FUA), 0);
    faults.interrupt = 2;
    assert_int_equal(backend->ops->flush(backend), 0);
    assert_int_equal(faults.syncs, 1);
    faults.interrupt = 1;
    assert_int_equal(backend->ops->zero(backend, 0, 10000, IO_MAY_HOLE), 0);
    faults.interrupt = 1;
    assert_int_equal(backend->ops->trim(backend, 0, 10000, 0), 0);
    faults.interrupt = 1;
    assert_int_equal(backend->ops->pread(backend, data, 8, 0, IO_NOWAIT), 0);
    assert_int_equal(faults.interrupt, 0);
}

static void short_transfers_go_on(void **state)
{
    Backend *backend = backend_of(state);

    faults.one_byte = true;
    assert_int_equal(put(backend, "in small pieces", 5, 0), 0);
    expect_text(backend, "in small pieces", 5);
    assert_true(faults.writes >= 15);
    assert_int_equal(put(backend, "and durable ones", 50, IO_FUA), 0);
    faults.one_byte = false;
    expect_text(backend, "in small pieces", 5);
    expect_text(backend, "and durable ones", 50);
}

static void a_failed_sync_is_asked_once(void **state)
{
    Backend *backend = backend_of(state);

    faults.sync_errno = EIO;
    assert_int_equal(backend->ops->flush(backend), -EIO);
    faults.sync_errno = 0;
    faults.syncs = 0;
    assert_int_equal(backend->ops->flush(backend), -EIO);
    assert_int_equal(put(backend, "x", 0, IO_FUA), -EIO);
    assert_int_equal(backend->ops->zero(backend, 0, 10, IO_FUA), -EIO);
    assert_int_equal(backend->ops->trim(backend, 0, 10, IO_FUA), -EIO);
    assert_int_equal(faults.syncs, 0);
    assert_int_equal(faults.dsyncs, 0);
    /* What asks for no durability goes on. */
    assert_int_equal(put(backend, "still", 0, 0), 0);
    expect_text(backend, "still", 0);
}

static void a_failed_sync_of_a_fua_write_is_latched(void **state)
{
    Backend *backend = backend_of(state);

    faults.sync_errno = ENOSPC;
    assert_int_equal(put(backend, "x", 0, IO_FUA), -ENOSPC);
    faults.sync_errno = 0;
    assert_int_equal(backend->ops->flush(backend), -EIO);
    assert_int_equal(faults.syncs, 0);
}

/* A device that is gone for a moment: the sync fails, and the write that is to tell why. When it is
 * back nothing reports the pages that were lost. */
static void a_failed_sync_is_latched_whatever_the_second_write_says(void **state)
{
    static const struct {
        int sync, plain;
    } cases[] = {{EIO, EIO}, {EIO, ENXIO}, {EIO, EROFS}, {ENOSPC, EIO}, {ENOLINK, ENOLINK}};

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (i > 0) {
            tear_down(state);
            set_up(state);
        }
        Backend *backend = backend_of(state);
        faults.sync_errno = cases[i].sync;
        faults.plain_errno = cases[i].plain;
        assert_int_equal(put(backend, "x", 0, IO_FUA), -cases[i].sync);
        faults = (Faults){0};
        assert_int_equal(backend->ops->flush(backend), -EIO);
        assert_int_equal(put(backend, "x", 0, IO_FUA), -EIO);
        assert_int_equal(faults.syncs + faults.dsyncs, 0);
    }
}

/* A file system of a network finds out when it sends a page that there is no room. */
static void no_room_may_be_the_syncs_where_it_is_found_late(void **state)
{
    Backend *backend = backend_of(state);
    FdBackend *fd_backend = (FdBackend *)backend;

    assert_false(fd_backend->finds_room_late);
    fd_backend->finds_room_late = true;
    faults.write_errno = EDQUOT;
    assert_int_equal(put(backend, "x", 0, IO_FUA), -EDQUOT);
    faults.write_errno = 0;
    assert_int_equal(backend->ops->flush(backend), -EIO);
}

static void a_full_file_system_is_not(void **state)
{
    Backend *backend = backend_of(state);

    static const int refusals[] = {ENOSPC, EDQUOT, EFBIG, EPERM, EROFS};

    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        faults.write_errno = refusals[i];
        assert_int_equal(put(backend, "x", 0, IO_FUA), -refusals[i]);
        assert_int_equal(put(backend, "x", 0, 0), -refusals[i]);
        assert_int_equal(backend->ops->flush(backend), 0);
    }
    faults.write_errno = 0;
    assert_int_equal(put(backend, "x", 0, IO_FUA), 0);
}

static void fua_without_dsync_syncs(void **state)
{
    Backend *backend = backend_of(state);

    faults.dsync_errno = EOPNOTSUPP;
    assert_int_equal(put(backend, "durable", 0, IO_FUA), 0);
    assert_int_equal(put(backend, "durable", 9, IO_FUA), 0);
    assert_int_equal(faults.dsyncs, 1);
    assert_int_equal(faults.syncs, 2);
    expect_text(backend, "durable", 9);
}

static void zeroes_are_written_where_nothing_else_helps(void **state)
{
    Backend *backend = backend_of(state);
    g_autofree char *data = g_malloc(SIZE);

    memset(data, 'x', SIZE);
    assert_int_equal(backend->ops->pwrite(backend, data, SIZE, 0, 0), 0);
    faults.punch_errno = faults.zero_range_errno = EOPNOTSUPP;
    faults.writes = 0;
    /* Quick means: nothing is touched. */
    assert_int_equal(backend->ops->zero(backend, 1, SIZE - 2, IO_MAY_HOLE | IO_FAST), -ENOTSUP);
    assert_int_equal(backend->ops->zero(backend, 1, SIZE - 2, IO_FAST), -ENOTSUP);
    assert_int_equal(faults.writes, 0);
    expect_bytes(backend, 0, SIZE, 'x');

    assert_int_equal(backend->ops->zero(backend, 1, SIZE - 2, IO_MAY_HOLE | IO_FUA), 0);
    assert_int_equal(faults.syncs, 1);
    expect_bytes(backend, 0, 1, 'x');
    expect_bytes(backend, 1, SIZE - 2, 0);
    expect_bytes(backend, SIZE - 1, 1, 'x');
    /* Also in pieces. */
    assert_int_equal(backend->ops->pwrite(backend, data, SIZE, 0, 0), 0);
    faults.one_byte = true;
    assert_int_equal(backend->ops->zero(backend, 65535, 100, 0), 0);
    faults.one_byte = false;
    expect_bytes(backend, 0, 65535, 'x');
    expect_bytes(backend, 65535, 100, 0);
    expect_bytes(backend, 65635, SIZE - 65635, 'x');
    assert_int_equal(backend->ops->trim(backend, 0, 4096, 0), 0);
    expect_bytes(backend, 0, 4096, 'x');
}

/* Only a refusal to do it at all is "slow"; a real error stays what it is. */
static void errors_of_zeroing_are_passed_on(void **state)
{
    Backend *backend = backend_of(state);

    faults.zero_range_errno = ENOSPC;
    assert_int_equal(backend->ops->zero(backend, 0, 4096, IO_FAST), -ENOSPC);
    assert_int_equal(backend->ops->zero(backend, 0, 4096, 0), -ENOSPC);
    faults.punch_errno = EIO;
    assert_int_equal(backend->ops->zero(backend, 0, 4096, IO_MAY_HOLE), -EIO);
    assert_int_equal(backend->ops->trim(backend, 0, 4096, 0), -EIO);
}

static void the_page_cache_is_asked_only_where_it_answers(void **state)
{
    Backend *backend = backend_of(state);
    char data[16];
    int result;

    faults.nowait_errno = EAGAIN;
    faults.reads = 0;
    assert_int_equal(backend->ops->pread(backend, data, 16, 0, IO_NOWAIT), -EAGAIN);
    assert_int_equal(faults.reads, 0);
    faults.nowait_errno = EIO;
    assert_int_equal(backend->ops->pread(backend, data, 16, 0, IO_NOWAIT), -EIO);
    faults.nowait_errno = EOPNOTSUPP;
    faults.nowaits = 0;
    for (int i = 0; i < 2; i++) {
        do { /* after one that was preempted, and so slow, nothing is done inline for a while */
            result = backend->ops->pread(backend, data, 16, 0, IO_NOWAIT);
        } while (result == -EAGAIN);
        assert_int_equal(result, 0);
    }
    assert_int_equal(faults.nowaits, 1);
    assert_int_equal(faults.reads, 2);
}

/* The kernel tells of a lost page once. Who was told is still finding out what it means, and a
 * flush that nobody has told must not say that all is well. */
static void a_flush_does_not_overtake_a_failure(void **state)
{
    Backend *backend = backend_of(state);
    void *result;

    faults.dsync_errno = EIO;
    faults.flushed = backend;
    assert_int_equal(put(backend, "x", 0, IO_FUA), -EIO);
    pthread_join(flusher, &result);
    assert_int_equal(GPOINTER_TO_INT(result), -EIO);
}

/* Nor one that syncs itself: the page that was lost may be its own. */
static void a_fua_write_does_not_overtake_a_failure(void **state)
{
    Backend *backend = backend_of(state);

    faults.failing = backend;
    assert_int_equal(put(backend, "y", 9, IO_FUA), -EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(interruptions_are_not_seen),
        TEST(short_transfers_go_on),
        TEST(a_failed_sync_is_asked_once),
        TEST(a_failed_sync_of_a_fua_write_is_latched),
        TEST(a_failed_sync_is_latched_whatever_the_second_write_says),
        TEST(a_flush_does_not_overtake_a_failure),
        TEST(a_fua_write_does_not_overtake_a_failure),
        TEST(no_room_may_be_the_syncs_where_it_is_found_late),
        TEST(a_full_file_system_is_not),
        TEST(fua_without_dsync_syncs),
        TEST(zeroes_are_written_where_nothing_else_helps),
        TEST(errors_of_zeroing_are_passed_on),
        TEST(the_page_cache_is_asked_only_where_it_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
