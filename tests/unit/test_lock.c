/* Image locks, among ourselves and against the real qemu-io where it is installed. */
#include "storage/backend.h"
#include "storage/error.h"
#include "tests/unit/scratch.h"
#include <string.h>
#include <sys/wait.h>

static Backend *try_open(const Scratch *scratch, bool read_only)
{
    GError *error = NULL;
    Backend *backend = backend_open(scratch->path, read_only, CACHE_WRITEBACK, &error);

    if (backend == NULL) {
        assert_true(g_error_matches(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED));
        assert_non_null(strstr(error->message, scratch->path));
        g_error_free(error);
    }
    return backend;
}

static void readers_share_and_writers_do_not(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    Backend *reader = try_open(&scratch, true), *second = try_open(&scratch, true), *writer;

    assert_non_null(reader);
    assert_non_null(second);
    assert_null(try_open(&scratch, false));
    backend_close(reader);
    assert_null(try_open(&scratch, false));
    backend_close(second);
    writer = try_open(&scratch, false);
    assert_non_null(writer);
    assert_null(try_open(&scratch, false));
    assert_null(try_open(&scratch, true));
    backend_close(writer);
    reader = try_open(&scratch, true);
    assert_non_null(reader);
    backend_close(reader);
}

/* A lock that somebody who knows nothing of the convention holds on the whole file. */
static void a_foreign_exclusive_lock_counts(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(scratch.path, O_RDWR | O_CLOEXEC);

    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_null(try_open(&scratch, true));
    assert_null(try_open(&scratch, false));
    close(fd);
}

static bool qemu_io_succeeds(const Scratch *scratch, bool read_only)
{
    const char *const arguments[] = {"qemu-io",
                                     "-f",
                                     "raw",
                                     "-c",
                                     read_only ? "read 0 512" : "write 0 512",
                                     scratch->path,
                                     read_only ? "-r" : NULL,
                                     NULL};
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    int status = -1;

    assert_true(g_spawn_sync(NULL, (char **)arguments, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL,
                             &output, &errors, &status, NULL));
    return status == 0;
}

static void require_qemu_io(void)
{
    g_autofree char *program = g_find_program_in_path("qemu-io");

    if (program == NULL) {
        skip();
    }
}

static void qemu_respects_our_locks(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    Backend *backend;

    require_qemu_io();
    assert_true(qemu_io_succeeds(&scratch, false));
    backend = try_open(&scratch, false);
    assert_false(qemu_io_succeeds(&scratch, false));
    backend_close(backend);
    backend = try_open(&scratch, true);
    assert_false(qemu_io_succeeds(&scratch, false));
    assert_true(qemu_io_succeeds(&scratch, true));
    backend_close(backend);
    assert_true(qemu_io_succeeds(&scratch, false));
}

/* qemu-io with its prompt open, until its input closes. */
static GPid hold_with_qemu_io(const Scratch *scratch, bool read_only, int *ret_input)
{
    const char *const arguments[] = {"qemu-io", "-f", "raw", scratch->path, read_only ? "-r" : NULL,
                                     NULL};
    char byte;
    GPid pid;
    int output;

    assert_true(g_spawn_async_with_pipes(NULL, (char **)arguments, NULL,
                                         G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                                         NULL, &pid, ret_input, &output, NULL, NULL));
    assert_int_equal(read(output, &byte, 1), 1); /* the prompt: the image is open */
    close(output);
    return pid;
}

static void let_go(GPid pid, int input)
{
    int status;

    close(input);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void we_respect_qemus_locks(void **state)
{
    g_auto(Scratch) scratch = scratch_file(*state, 4096);
    Backend *backend;
    GPid pid;
    int input;

    require_qemu_io();
    pid = hold_with_qemu_io(&scratch, false, &input);
    assert_null(try_open(&scratch, false));
    assert_null(try_open(&scratch, true));
    let_go(pid, input);
    pid = hold_with_qemu_io(&scratch, true, &input);
    backend = try_open(&scratch, true);
    assert_non_null(backend);
    backend_close(backend);
    let_go(pid, input);
    backend = try_open(&scratch, false);
    assert_non_null(backend);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(readers_share_and_writers_do_not, (void *)SCRATCH_DISK),
        cmocka_unit_test_prestate(readers_share_and_writers_do_not, (void *)SCRATCH_MEMORY),
        cmocka_unit_test_prestate(a_foreign_exclusive_lock_counts, (void *)SCRATCH_DISK),
        cmocka_unit_test_prestate(qemu_respects_our_locks, (void *)SCRATCH_DISK),
        cmocka_unit_test_prestate(we_respect_qemus_locks, (void *)SCRATCH_DISK),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
