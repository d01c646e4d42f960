/* A connection's bytes, over a socket that is full. */
#include "daemon/nbd/stream.h"
#include "tests/unit/check.h"
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define BYTES ((size_t)4 << 20)

static void *read_all(void *data)
{
    int fd = *(int *)data;
    size_t total = 0;
    static char buffer[65536];

    while (total < BYTES) {
        ssize_t n = read(fd, buffer, sizeof(buffer));
        if (n <= 0)
            break;
        total += (size_t)n;
    }
    return (void *)(uintptr_t)total;
}

static void fail_at_something(void *holder)
{
    ++*(unsigned *)holder;
    errno = EMFILE;
}

/* What is done while a send waits may fail; that is no error of the socket. */
static void test_errors_of_others(void **state)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    unsigned waits = 0;
    Stream stream = {.fd = fds[0], .let_go = fail_at_something, .holder = &waits};
    g_autofree char *bytes = g_malloc0(BYTES);
    struct iovec part = {bytes, BYTES};
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, read_all, &fds[1]), 0);
    assert_int_equal(stream_send(&stream, &part, 1, false), 0);
    void *total;
    pthread_join(reader, &total);
    assert_int_equal((uintptr_t)total, BYTES);
    assert_true(waits > 0);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_of_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
