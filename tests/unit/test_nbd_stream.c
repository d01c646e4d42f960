/* A connection's bytes, over a socket that is full. */
#include "daemon/nbd/stream.h"
#include "tests/unit/check.h"
#include "tests/unit/comes.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

#define BYTES ((size_t)4 << 20)

typedef struct {
    int fd;
    sem_t full; /* a send has found the socket full */
    size_t total;
} Reader;

/* Reads nothing before the sender waits: however their turns fall, it does. */
static void *read_all(void *data)
{
    Reader *reader = data;
    static char buffer[65536];

    if (!comes(&reader->full))
        return NULL;
    while (reader->total < BYTES) {
        ssize_t n = read(reader->fd, buffer, sizeof(buffer));
        if (n <= 0)
            break;
        reader->total += (size_t)n;
    }
    return NULL;
}

static void fail_at_something(void *holder)
{
    Reader *reader = holder;
    sem_post(&reader->full);
    errno = EMFILE;
}

/* What is done while a send waits may fail; that is no error of the socket. */
static void test_errors_of_others(void **state)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    Reader reader = {.fd = fds[1]};
    sem_init(&reader.full, 0, 0);
    Stream stream = {.fd = fds[0], .let_go = fail_at_something, .holder = &reader};
    g_autofree char *bytes = g_malloc0(BYTES);
    struct iovec part = {bytes, BYTES};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_all, &reader), 0);
    assert_int_equal(stream_send(&stream, &part, 1, false), 0);
    pthread_join(thread, NULL);
    assert_int_equal(reader.total, BYTES);
    sem_destroy(&reader.full);
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
