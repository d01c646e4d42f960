/* A library to preload into nbdd that makes I/O on one file slow, failing, and counted.
 *
 * The test maps the file that NBDD_FAULT_FILE names and fills in `FaultPage`; the daemon maps it
 * too, so a fault can be set and taken away while it runs. Which file is meant is told by device
 * and inode. An offset range limits reads, writes and zeroing; syncs have none. A delay is taken to
 * its end, but for the longest: that one ends with the fault.
 *
 * It stands below libc's wrappers, so it does not see io_uring: the thread-pool engine alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_DSYNC
#define RWF_DSYNC 0x00000002
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

enum { READ, WRITE, SYNC, ZERO, WHOLE_SYNC, KINDS };

typedef struct {
    uint64_t device, inode;
    struct {
        uint64_t error, delay_us, from, to; /* in force while to > from */
        _Atomic uint64_t calls;             /* on the file, whatever the range */
    } kinds[KINDS];
} FaultPage;

static FaultPage *page;

__attribute__((constructor)) static void fault_start(void)
{
    const char *path = getenv("NBDD_FAULT_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof(FaultPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        page = map;
}

/* 0, or the errno to fail with. */
static int fault(int kind, int fd, uint64_t offset, uint64_t length)
{
    struct stat st;
    if (!page || page->inode == 0 || fstat(fd, &st) != 0)
        return 0;
    if (st.st_ino != page->inode || st.st_dev != page->device)
        return 0;
    atomic_fetch_add(&page->kinds[kind].calls, 1);
    if (offset >= page->kinds[kind].to || offset + length <= page->kinds[kind].from)
        return 0;
    while (page->kinds[kind].delay_us == UINT64_MAX && page->kinds[kind].to > 0)
        usleep(5000);
    if (page->kinds[kind].delay_us && page->kinds[kind].to > 0)
        usleep((useconds_t)page->kinds[kind].delay_us);
    return (int)page->kinds[kind].error;
}

#define FAIL(kind, fd, offset, length)                                                             \
    do {                                                                                           \
        int error_ = fault(kind, fd, offset, length);                                              \
        if (error_) {                                                                              \
            errno = error_;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
    } while (0)

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static uint64_t iov_total(const struct iovec *iov, int count)
{
    uint64_t total = 0;
    for (int i = 0; i < count; i++)
        total += iov[i].iov_len;
    return total;
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    FAIL(READ, fd, offset, length);
    return real(fd, buffer, length, offset);
}

ssize_t preadv64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    REAL(ssize_t, "preadv64", int, const struct iovec *, int, off64_t);
    FAIL(READ, fd, offset, iov_total(iov, count));
    return real(fd, iov, count, offset);
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    REAL(ssize_t, "preadv64v2", int, const struct iovec *, int, off64_t, int);
    FAIL(READ, fd, offset, iov_total(iov, count));
    return real(fd, iov, count, offset, flags);
}

ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length,
               unsigned flags)
{
    REAL(ssize_t, "splice", int, off64_t *, int, off64_t *, size_t, unsigned);
    if (in_offset)
        FAIL(READ, in, *in_offset, length);
    return real(in, in_offset, out, out_offset, length, flags);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t length)
{
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    if (offset)
        FAIL(READ, in, *offset, length);
    return real(out, in, offset, length);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    FAIL(WRITE, fd, offset, length);
    return real(fd, buffer, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    FAIL(WRITE, fd, offset, iov_total(iov, count));
    return real(fd, iov, count, offset);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    REAL(ssize_t, "pwritev64v2", int, const struct iovec *, int, off64_t, int);
    FAIL(WRITE, fd, offset, iov_total(iov, count));
    if (flags & RWF_DSYNC)
        FAIL(SYNC, fd, 0, 1);
    return real(fd, iov, count, offset, flags);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    FAIL(ZERO, fd, offset, length);
    return real(fd, mode, offset, length);
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    FAIL(WHOLE_SYNC, fd, 0, 1);
    FAIL(SYNC, fd, 0, 1);
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    FAIL(WHOLE_SYNC, fd, 0, 1);
    FAIL(SYNC, fd, 0, 1);
    return real(fd);
}

/* On 64-bit machines these are other names of the same calls. */
ssize_t pread(int, void *, size_t, off_t) __attribute__((alias("pread64")));
ssize_t preadv(int, const struct iovec *, int, off_t) __attribute__((alias("preadv64")));
ssize_t preadv2(int, const struct iovec *, int, off_t, int) __attribute__((alias("preadv64v2")));
ssize_t sendfile(int, int, off_t *, size_t) __attribute__((alias("sendfile64")));
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
ssize_t pwritev(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev64")));
ssize_t pwritev2(int, const struct iovec *, int, off_t, int) __attribute__((alias("pwritev64v2")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));
