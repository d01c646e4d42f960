#include "storage/backend.h"
#include "storage/error.h"
#include "storage/filesystem.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define KIB ((uint64_t)1024)
#define MIB ((uint64_t)1024 * 1024)

static Backend *open_scratch(const Scratch *scratch, bool read_only)
{
    GError *error = NULL;
    Backend *backend = backend_open(scratch->path, read_only, CACHE_WRITEBACK, &error);

    assert_null(error);
    assert_non_null(backend);
    return backend;
}

static void write_pattern(Backend *backend, uint64_t offset, size_t length, char byte)
{
    g_autofree char *data = g_malloc(length);

    memset(data, byte, length);
    assert_int_equal(backend->ops->pwrite(backend, data, length, offset, 0), 0);
}

static void expect_pattern(Backend *backend, uint64_t offset, size_t length, char byte)
{
    g_autofree char *data = g_malloc(length);

    assert_int_equal(backend->ops->pread(backend, data, length, offset, 0), 0);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(data[i], byte);
    }
}

static void the_size_is_exact(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 1234567);
    Backend *backend = open_scratch(&scratch, false);

    assert_string_equal(backend->ops->name, "file");
    assert_true(backend->size == 1234567);
    assert_int_equal(backend->minimum_block, 1);
    assert_true(backend->preferred_block >= 4096);
    assert_true(backend->splice_ok);
    assert_string_equal(backend->path, scratch.path);
    backend_close(backend);
}

/* A thread that did not run for a while may have a stamp by then. */
static void expect_no_stamp_since(Backend *backend, gint64 written, BackendStamp *ret_stamp)
{
    bool stamped = backend->ops->stamp(backend, ret_stamp);

    assert_true(!stamped || g_get_monotonic_time() - written > G_USEC_PER_SEC);
}

/* Another write may follow in the same tick. */
static void a_file_just_written_has_no_stamp(void **state)
{
    gint64 written = g_get_monotonic_time();
    g_auto(Scratch) scratch = scratch_file(*state, 65536);
    Backend *backend = open_scratch(&scratch, false);
    BackendStamp stamp, other;

    expect_no_stamp_since(backend, written, &stamp);
    if (!filesystem_is_prompt(backend->fd)) {
        backend_close(backend);
        skip(); /* it never has one there */
    }
    while (!backend->ops->stamp(backend, &stamp)) {
        g_usleep(50000);
    }
    assert_true(backend->ops->stamp(backend, &other));
    assert_memory_equal(&stamp, &other, sizeof stamp);
    written = g_get_monotonic_time();
    assert_int_equal(backend->ops->pwrite(backend, "x", 1, 4096, 0), 0);
    expect_no_stamp_since(backend, written, &other);
    assert_true(other.ctime > stamp.ctime && other.mtime > stamp.mtime);
    assert_true(other.size == stamp.size && other.blocks > stamp.blocks);
    backend_close(backend);
}

static void what_was_written_is_read(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 100001);
    Backend *backend = open_scratch(&scratch, false);

    write_pattern(backend, 1, 99999, 'a');
    write_pattern(backend, 100000, 1, 'z');
    write_pattern(backend, 4095, 2, 'b');
    expect_pattern(backend, 0, 1, 0);
    expect_pattern(backend, 1, 4094, 'a');
    expect_pattern(backend, 4095, 2, 'b');
    expect_pattern(backend, 100000, 1, 'z');
    assert_int_equal(backend->ops->flush(backend), 0);
    backend_close(backend);
}

static void fua_writes_reach_the_file(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 8 * KIB);
    Backend *backend = open_scratch(&scratch, false);

    assert_int_equal(backend->ops->pwrite(backend, "durable", 7, 100, IO_FUA), 0);
    assert_int_equal(backend->ops->zero(backend, 103, 2, IO_FUA), 0);
    assert_int_equal(backend->ops->trim(backend, 4096, 4096, IO_FUA), 0);
    expect_pattern(backend, 103, 2, 0);
    expect_pattern(backend, 106, 1, 'e');
    backend_close(backend);
}

static void a_read_only_disk_stays_as_it_is(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    Backend *backend = open_scratch(&scratch, true);

    assert_true(backend->read_only);
    assert_false(backend->can_trim);
    assert_int_equal(backend->ops->pwrite(backend, "x", 1, 0, 0), -EBADF);
    expect_pattern(backend, 0, 4096, 0);
    backend_close(backend);
}

static void holes_are_found(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4 * MIB + 100);
    Backend *backend = open_scratch(&scratch, false);
    ExtentList list;

    write_pattern(backend, MIB, 64 * KIB, 'd');
    write_pattern(backend, 3 * MIB, 4096, 'd');
    extent_list_init(&list, 512, 100);
    assert_int_equal(backend->ops->extents(backend, 512, 4 * MIB + 100 - 512, &list), 0);
    assert_int_equal(list.count, 5);
    assert_int_equal(list.total, 4 * MIB + 100 - 512);
    assert_int_equal(list.items[0].length, MIB - 512);
    assert_int_equal(list.items[0].flags, EXTENT_HOLE | EXTENT_ZERO);
    assert_int_equal(list.items[1].length, 64 * KIB);
    assert_int_equal(list.items[1].flags, 0);
    assert_int_equal(list.items[3].flags, 0);
    assert_int_equal(list.items[4].length, MIB - 4096 + 100);
    extent_list_clear(&list);

    /* A part of a run, from its middle. */
    extent_list_init(&list, MIB + 100, 100);
    assert_int_equal(backend->ops->extents(backend, MIB + 100, 200, &list), 0);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.total, 200);
    assert_int_equal(list.items[0].flags, 0);
    extent_list_clear(&list);
    backend_close(backend);
}

/* What was asked before does not hide what was punched since, nor what was written. */
static void the_map_follows_changes(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4 * MIB);
    Backend *backend = open_scratch(&scratch, false);

    write_pattern(backend, 0, 4 * MIB, 'd');
    for (int i = 0; i < 6; i++) {
        const uint32_t expected[] = {0, 0, 1, 0, 1, 0};
        ExtentList list;

        if (i == 2) {
            assert_int_equal(backend->ops->trim(backend, MIB, MIB, 0), 0);
        } else if (i == 3 || i == 5) {
            write_pattern(backend, MIB, MIB, 'e');
        } else if (i == 4) {
            assert_int_equal(backend->ops->zero(backend, MIB, MIB, IO_MAY_HOLE), 0);
        }
        extent_list_init(&list, MIB, 10);
        assert_int_equal(backend->ops->extents(backend, MIB, 2 * MIB, &list), 0);
        assert_int_equal(list.items[0].flags != 0, expected[i]);
        assert_int_equal(list.total, 2 * MIB);
        assert_int_equal(list.count, expected[i] ? 2 : 1);
        extent_list_clear(&list);
    }
    backend_close(backend);
}

static void the_map_is_bounded(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4 * MIB);
    Backend *backend = open_scratch(&scratch, false);
    ExtentList list;

    write_pattern(backend, MIB, 4096, 'd');
    write_pattern(backend, 2 * MIB, 4096, 'd');
    extent_list_init(&list, 0, 2);
    assert_int_equal(backend->ops->extents(backend, 0, 4 * MIB, &list), 0);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.total, MIB + 4096);
    extent_list_clear(&list);
    backend_close(backend);
}

static void zeroing_may_punch_holes(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 2 * MIB);
    Backend *backend = open_scratch(&scratch, false);
    uint64_t before;

    write_pattern(backend, 0, 2 * MIB, 'x');
    assert_int_equal(backend->ops->flush(backend), 0);
    before = scratch_allocated(&scratch);
    assert_int_equal(backend->ops->zero(backend, 100, MIB, IO_MAY_HOLE | IO_FAST), 0);
    assert_true(scratch_allocated(&scratch) <= before - MIB + 64 * KIB);
    expect_pattern(backend, 0, 100, 'x');
    expect_pattern(backend, 100, MIB, 0);
    expect_pattern(backend, MIB + 100, 100, 'x');
    backend_close(backend);
}

static void zeroing_without_holes_keeps_the_blocks(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 2 * MIB);
    Backend *backend = open_scratch(&scratch, false);
    uint64_t before;

    write_pattern(backend, 0, MIB, 'x');
    assert_int_equal(backend->ops->flush(backend), 0);
    before = scratch_allocated(&scratch);
    /* Half of it was data, half was a hole: in the end all of it has blocks. */
    assert_int_equal(backend->ops->zero(backend, 512 * KIB, MIB, 0), 0);
    assert_true(scratch_allocated(&scratch) >= before + 512 * KIB);
    expect_pattern(backend, 0, 512 * KIB, 'x');
    expect_pattern(backend, 512 * KIB, MIB + 512 * KIB, 0);
    assert_int_equal(backend->size, 2 * MIB);
    backend_close(backend);
}

static void trim_gives_blocks_back(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 2 * MIB);
    Backend *backend = open_scratch(&scratch, false);

    write_pattern(backend, 0, 2 * MIB, 'x');
    assert_int_equal(backend->ops->flush(backend), 0);
    assert_int_equal(backend->ops->trim(backend, 0, 2 * MIB, 0), 0);
    assert_true(scratch_allocated(&scratch) <= 64 * KIB);
    assert_int_equal(backend->size, 2 * MIB);
    backend_close(backend);
}

static void a_file_that_shrank_answers_eio(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 64 * KIB);
    Backend *backend = open_scratch(&scratch, false);
    char data[8192];

    assert_int_equal(truncate(scratch.path, 6000), 0);
    assert_int_equal(backend->ops->pread(backend, data, 8192, 0, 0), -EIO);
    assert_int_equal(backend->ops->pread(backend, data, 512, 32 * KIB, 0), -EIO);
    assert_true(backend->ops->pread(backend, data, 8192, 0, IO_NOWAIT) < 0);
    assert_int_equal(backend->ops->pread(backend, data, 6000, 0, 0), 0);
    backend_close(backend);
}

static void growth_is_picked_up(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    Backend *backend = open_scratch(&scratch, false);
    uint64_t size = 0;

    assert_int_equal(truncate(scratch.path, 10001), 0);
    assert_int_equal(backend->size, 4096);
    assert_int_equal(backend->ops->refresh(backend, &size), 0);
    assert_int_equal(size, 10001);
    assert_int_equal(backend->size, 10001);
    backend_close(backend);
}

static void inline_io_needs_no_thread(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 64 * KIB);
    Backend *backend = open_scratch(&scratch, false);
    char data[4096] = "inline";
    int result = -EAGAIN;

    /* A machine under load may make one of them slow, and close the gate for a while. */
    for (int i = 0; i < 1000 && result == -EAGAIN; i++) {
        result = backend->ops->pwrite(backend, data, sizeof data, 100, IO_NOWAIT);
        usleep(result == -EAGAIN ? 2000 : 0);
    }
    assert_int_equal(result, 0);
    result = -EAGAIN;
    for (int i = 0; i < 1000 && result == -EAGAIN; i++) {
        result = backend->ops->pread(backend, data, sizeof data, 100, IO_NOWAIT);
        usleep(result == -EAGAIN ? 2000 : 0);
    }
    assert_int_equal(result, 0);
    assert_string_equal(data, "inline");
    /* What always may block is never done inline. */
    assert_int_equal(backend->ops->pwrite(backend, data, 10, 0, IO_NOWAIT | IO_FUA), -EAGAIN);
    assert_int_equal(backend->ops->zero(backend, 0, 10, IO_NOWAIT), -EAGAIN);
    assert_int_equal(backend->ops->trim(backend, 0, 10, IO_NOWAIT), -EAGAIN);
    backend_close(backend);
}

static void drop_cache(Backend *backend)
{
    assert_int_equal(fdatasync(backend->fd), 0);
    assert_int_equal(posix_fadvise(backend->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* Where the file system can tell (ext4, XFS): what is not cached is not waited for. */
/* The kernel may be reading around it still. */
static bool becomes_cached(Backend *backend, uint64_t offset)
{
    char data[4096];

    for (int i = 0; i < 6000; i++) {
        if (backend->ops->pread(backend, data, sizeof data, offset, IO_NOWAIT) == 0) {
            return true;
        }
        usleep(10000);
    }
    return false;
}

static void uncached_reads_are_left_to_the_engine(void **state)
{
    g_auto(Scratch) scratch = scratch_file(SCRATCH_DISK, MIB);
    Backend *backend = open_scratch(&scratch, false);
    char data[4096];

    write_pattern(backend, 0, MIB, 'c');
    drop_cache(backend);
    if (backend->ops->pread(backend, data, sizeof data, 512 * KIB, IO_NOWAIT) == 0) {
        backend_close(backend);
        skip();
    }
    assert_int_equal(backend->ops->pread(backend, data, sizeof data, 512 * KIB, 0), 0);
    assert_true(becomes_cached(backend, 512 * KIB));

    drop_cache(backend);
    assert_int_equal(backend->ops->prefetch(backend, 0, MIB), 0);
    assert_true(becomes_cached(backend, MIB - 4096));
    backend_close(backend);
}

static void one_inode_is_one_disk(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    g_auto(Scratch) other = scratch_file(*state, 4096);
    g_auto(Scratch) hard = {.path = g_strdup_printf("%s-hard", scratch.path)};
    g_auto(Scratch) soft = {.path = g_strdup_printf("%s-soft", scratch.path)};
    BackendIdentity identity;
    Backend *one, *two, *three;

    assert_int_equal(link(scratch.path, hard.path), 0);
    assert_int_equal(symlink(scratch.path, soft.path), 0);
    one = open_scratch(&scratch, true);
    two = open_scratch(&soft, true);
    three = open_scratch(&other, true);
    assert_true(backend_same(one, two));
    assert_false(backend_same(one, three));
    assert_true(backend_identify(hard.path, &identity, NULL));
    assert_true(backend_identity_equal(&identity, &one->identity));
    backend_close(one);
    backend_close(two);
    backend_close(three);
}

static void expect_refusal(const char *path, int code, const char *text)
{
    GError *error = NULL;
    BackendIdentity identity;

    for (int i = 0; i < 4; i++) {
        assert_null(backend_open(path, i & 1, i & 2 ? CACHE_DIRECT : CACHE_WRITEBACK, &error));
        assert_true(g_error_matches(error, STORAGE_ERROR, code));
        assert_non_null(strstr(error->message, text));
        g_clear_error(&error);
    }
    assert_false(backend_identify(path, &identity, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, code));
    g_clear_error(&error);
}

static void what_is_no_disk_is_refused(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    alarm(20); /* opening a FIFO must not wait for its other end */
    unlink(scratch.path);
    expect_refusal(scratch.path, STORAGE_ERROR_NOT_FOUND, "No such file");
    assert_int_equal(mkfifo(scratch.path, 0600), 0);
    expect_refusal(scratch.path, STORAGE_ERROR_INVALID, "is a FIFO");
    unlink(scratch.path);
    g_strlcpy(address.sun_path, scratch.path, sizeof address.sun_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    expect_refusal(scratch.path, STORAGE_ERROR_INVALID, "is a socket");
    expect_refusal("/dev/null", STORAGE_ERROR_INVALID, "is a character device");
    expect_refusal("/", STORAGE_ERROR_INVALID, "is a directory");
    alarm(0);
    close(fd);
}

#define ON(test, folder)                                                                           \
    {                                                                                              \
        .name = #test " on " folder, .test_func = test, .initial_state = (void *)folder            \
    }
#define ON_BOTH(test) ON(test, SCRATCH_DISK), ON(test, SCRATCH_MEMORY)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(the_size_is_exact),
        ON_BOTH(what_was_written_is_read),
        ON_BOTH(a_file_just_written_has_no_stamp),
        ON_BOTH(fua_writes_reach_the_file),
        ON_BOTH(a_read_only_disk_stays_as_it_is),
        ON_BOTH(holes_are_found),
        ON_BOTH(the_map_follows_changes),
        ON_BOTH(the_map_is_bounded),
        ON_BOTH(zeroing_may_punch_holes),
        ON_BOTH(zeroing_without_holes_keeps_the_blocks),
        ON_BOTH(trim_gives_blocks_back),
        ON_BOTH(a_file_that_shrank_answers_eio),
        ON_BOTH(growth_is_picked_up),
        ON_BOTH(inline_io_needs_no_thread),
        ON_BOTH(one_inode_is_one_disk),
        ON(what_is_no_disk_is_refused, SCRATCH_DISK),
        ON(uncached_reads_are_left_to_the_engine, SCRATCH_DISK),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
