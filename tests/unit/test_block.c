/* Block devices: loop devices, where root may make them; skipped elsewhere. */
#include "storage/backend.h"
#include "storage/error.h"
#include "tests/unit/scratch.h"
#include <errno.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>

#define MIB  ((uint64_t)1024 * 1024)
#define SIZE (8 * MIB)

typedef struct {
    Scratch file;
    char *path;
    int fd; /* keeps the device, which goes with its last user */
} Loop;

/* False: not allowed here. */
static bool loop_attach(Loop *loop)
{
    int file = open(loop->file.path, O_RDWR | O_CLOEXEC);
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    struct loop_config config = {.fd = (unsigned)file, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    bool attached = false;

    /* Another process may take the free one first. */
    for (int i = 0; control >= 0 && i < 100 && !attached; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);

        loop->path = g_strdup_printf("/dev/loop%d", number);
        loop->fd = open(loop->path, O_RDWR | O_CLOEXEC);
        attached = loop->fd >= 0 && ioctl(loop->fd, LOOP_CONFIGURE, &config) == 0;
        if (!attached) {
            g_clear_pointer(&loop->path, g_free);
            if (loop->fd >= 0) {
                close(loop->fd);
            }
        }
    }
    if (control >= 0) {
        close(control);
    }
    close(file);
    return attached;
}

static int set_up(void **state)
{
    Loop *loop = g_new0(Loop, 1);

    loop->file = scratch_file(SCRATCH_DISK, SIZE + 1000);
    loop->fd = -1;
    *state = loop;
    if (!loop_attach(loop)) {
        loop->path = NULL;
    }
    return 0;
}

static int tear_down(void **state)
{
    Loop *loop = *state;

    if (loop->path != NULL) {
        close(loop->fd);
    }
    scratch_clear(&loop->file);
    g_free(loop->path);
    g_free(loop);
    return 0;
}

static Backend *open_loop(void **state, bool read_only, CacheMode cache)
{
    Loop *loop = *state;
    GError *error = NULL;
    Backend *backend;

    if (loop->path == NULL) {
        skip();
    }
    backend = backend_open(loop->path, read_only, cache, &error);
    assert_null(error);
    return backend;
}

static void fill(Backend *backend, char byte)
{
    g_autofree char *data = g_malloc(SIZE);

    memset(data, byte, SIZE);
    assert_int_equal(backend->ops->pwrite(backend, data, SIZE, 0, 0), 0);
    assert_int_equal(backend->ops->flush(backend), 0);
}

static void expect(Backend *backend, uint64_t offset, uint64_t length, char byte)
{
    g_autofree char *data = g_malloc(length);

    assert_int_equal(backend->ops->pread(backend, data, length, offset, 0), 0);
    for (uint64_t i = 0; i < length; i++) {
        assert_int_equal(data[i], byte);
    }
}

static void properties_come_from_the_device(void **state)
{
    Backend *backend = open_loop(state, false, CACHE_WRITEBACK);
    Loop *loop = *state;
    BackendIdentity identity;

    assert_string_equal(backend->ops->name, "block");
    assert_int_equal(backend->size, (SIZE + 1000) / 512 * 512);
    assert_int_equal(backend->minimum_block, 1);
    assert_true(backend->can_trim);
    assert_true(backend_identify(loop->path, &identity, NULL));
    assert_true(backend_identity_equal(&identity, &backend->identity));
    assert_true(backend_identify(loop->file.path, &identity, NULL));
    assert_false(backend_identity_equal(&identity, &backend->identity));
    backend_close(backend);
    backend = open_loop(state, true, CACHE_DIRECT);
    assert_true(backend->minimum_block >= 512);
    assert_false(backend->can_trim);
    backend_close(backend);
}

static void a_writer_has_it_alone(void **state)
{
    Backend *backend = open_loop(state, false, CACHE_WRITEBACK), *other;
    Loop *loop = *state;
    GError *error = NULL;

    other = backend_open(loop->path, false, CACHE_WRITEBACK, &error);
    assert_null(other);
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
    g_clear_error(&error);
    assert_null(backend_open(loop->path, true, CACHE_WRITEBACK, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
    g_clear_error(&error);
    backend_close(backend);
    backend = open_loop(state, true, CACHE_WRITEBACK);
    other = open_loop(state, true, CACHE_WRITEBACK);
    backend_close(backend);
    backend_close(other);
}

/* O_EXCL: what the kernel itself uses, or who knows nothing of the locks. */
static void a_device_in_use_is_refused(void **state)
{
    Loop *loop = *state;
    GError *error = NULL;
    int fd;

    if (loop->path == NULL) {
        skip();
    }
    fd = open(loop->path, O_RDONLY | O_EXCL | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_null(backend_open(loop->path, false, CACHE_WRITEBACK, &error));
    assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
    assert_non_null(strstr(error->message, "in use"));
    g_clear_error(&error);
    close(fd);
}

static void zeroing_of_any_alignment(void **state)
{
    for (CacheMode cache = CACHE_WRITEBACK; cache <= CACHE_DIRECT; cache++) {
        const unsigned flags[] = {0, IO_MAY_HOLE, IO_FUA, IO_MAY_HOLE | IO_FUA};

        for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
            Backend *backend = open_loop(state, false, cache);

            fill(backend, 'x');
            assert_int_equal(backend->ops->zero(backend, 1000, MIB, flags[i]), 0);
            expect(backend, 0, 1000, 'x');
            expect(backend, 1000, MIB, 0);
            expect(backend, MIB + 1000, 5000, 'x');
            assert_int_equal(backend->ops->zero(backend, 3 * MIB + 5, 100, flags[i]), 0);
            expect(backend, 3 * MIB, 5, 'x');
            expect(backend, 3 * MIB + 5, 100, 0);
            expect(backend, 3 * MIB + 105, 5000, 'x');
            backend_close(backend);
        }
    }
}

static void fast_zeroing_works_or_says_no(void **state)
{
    Backend *backend = open_loop(state, false, CACHE_WRITEBACK);
    int result;

    fill(backend, 'x');
    result = backend->ops->zero(backend, 4096, MIB, IO_FAST | IO_MAY_HOLE);
    assert_true(result == 0 || result == -ENOTSUP);
    expect(backend, 4096, MIB, result == 0 ? 0 : 'x');
    result = backend->ops->zero(backend, 2 * MIB, MIB, IO_FAST);
    assert_int_equal(result, backend->can_fast_zero ? 0 : -ENOTSUP);
    expect(backend, 2 * MIB, MIB, result == 0 ? 0 : 'x');
    expect(backend, 3 * MIB, MIB, 'x');
    backend->can_fast_zero = false;
    assert_int_equal(backend->ops->zero(backend, 4 * MIB, MIB, IO_FAST), -ENOTSUP);
    expect(backend, 4 * MIB, MIB, 'x');
    backend_close(backend);
}

static void trim_reaches_the_file_below(void **state)
{
    Backend *backend = open_loop(state, false, CACHE_WRITEBACK);
    Loop *loop = *state;

    fill(backend, 'x');
    assert_true(scratch_allocated(&loop->file) >= SIZE);
    assert_int_equal(backend->ops->trim(backend, 100, SIZE - 200, IO_FUA), 0);
    assert_true(scratch_allocated(&loop->file) < MIB);
    expect(backend, 0, 100, 'x');
    expect(backend, SIZE - 100, 100, 'x');
    assert_int_equal(backend->ops->trim(backend, 100, 200, 0), 0);
    backend_close(backend);
}

static void everything_is_data(void **state)
{
    Backend *backend = open_loop(state, true, CACHE_WRITEBACK);
    ExtentList list;

    extent_list_init(&list, 4096, 10);
    assert_int_equal(backend->ops->extents(backend, 4096, MIB, &list), 0);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.total, MIB);
    assert_int_equal(list.items[0].flags, 0);
    extent_list_clear(&list);
    backend_close(backend);
}

static void unaligned_direct_io(void **state)
{
    Backend *backend = open_loop(state, false, CACHE_DIRECT);

    fill(backend, 'x');
    assert_int_equal(backend->ops->pwrite(backend, "abc", 3, 510, IO_FUA), 0);
    expect(backend, 0, 510, 'x');
    expect(backend, 511, 1, 'b');
    expect(backend, 513, 1000, 'x');
    backend_close(backend);
}

static void growth_is_picked_up(void **state)
{
    Backend *backend = open_loop(state, true, CACHE_WRITEBACK);
    Loop *loop = *state;
    uint64_t size = 0;

    assert_int_equal(truncate(loop->file.path, 2 * SIZE), 0);
    assert_int_equal(ioctl(loop->fd, LOOP_SET_CAPACITY), 0);
    assert_int_equal(backend->ops->refresh(backend, &size), 0);
    assert_int_equal(size, 2 * SIZE);
    assert_int_equal(backend->size, 2 * SIZE);
    backend_close(backend);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(properties_come_from_the_device),
        TEST(a_writer_has_it_alone),
        TEST(a_device_in_use_is_refused),
        TEST(zeroing_of_any_alignment),
        TEST(fast_zeroing_works_or_says_no),
        TEST(trim_reaches_the_file_below),
        TEST(everything_is_data),
        TEST(unaligned_direct_io),
        TEST(growth_is_picked_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
