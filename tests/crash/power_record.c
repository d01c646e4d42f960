/* The other half: a log of what the process does to its state directory and to the image, in order,
 * each call with the record of its beginning and that of its end.
 *
 * Files are told by name when they are opened: those directly in FOLDER/state, that folder itself,
 * and FOLDER/disk.img, named "/". A call that changes files in a way the model does not know is
 * recorded as unknown, which fails the run. A way that goes past libc's wrappers is not seen here:
 * the replay of the whole log is compared with the files. Nothing is synced in truth; a sync takes
 * NBDD_POWER_SYNC_US, so that others can come in between. */
#include "tests/crash/power_log.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MAX_FDS 4096

/* What is open, by descriptor. */
static struct {
    _Atomic uint32_t handle; /* 0: not recorded */
    _Atomic bool durable;    /* opened with O_DSYNC or O_SYNC */
} files[MAX_FDS];
static _Atomic uint32_t next_handle = 1, next_id = 1;
static int log_fd = -1;
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static bool recording(void)
{
    return power_active() && power_log_path;
}

static void append(PowerRecord *record, const struct iovec *pieces, int count)
{
    struct iovec all[1 + 64];
    record->size = sizeof *record;
    all[0] = (struct iovec){record, sizeof *record};
    if (count > 64)
        abort();
    for (int i = 0; i < count; i++) {
        all[i + 1] = pieces[i];
        record->size += (uint32_t)pieces[i].iov_len;
    }
    pthread_mutex_lock(&log_mutex);
    bool first = log_fd < 0;
    if (first)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, power_log_path,
                              O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    PowerRecord start = {.size = sizeof start, .kind = POWER_START, .pid = record->pid};
    if (first && syscall(SYS_write, log_fd, &start, sizeof start) != sizeof start)
        abort();
    if (syscall(SYS_writev, log_fd, all, count + 1) != record->size)
        abort();
    pthread_mutex_unlock(&log_mutex);
}

static PowerRecord begin(PowerKind kind, uint32_t handle, int32_t flags, uint64_t offset,
                         uint64_t length, const struct iovec *pieces, int count)
{
    PowerRecord record = {
        .kind = kind,
        .phase = POWER_BEGIN,
        .pid = (uint32_t)getpid(),
        .id = atomic_fetch_add(&next_id, 1),
        .handle = handle,
        .flags = flags,
        .offset = offset,
        .length = length,
    };
    append(&record, pieces, count);
    return record;
}

static void end(PowerRecord *record, int fd, int64_t result)
{
    struct stat st;
    int errnum = errno;
    record->phase = POWER_END;
    record->result = result;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        record->mtime = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
        record->ctime = st.st_ctim.tv_sec * INT64_C(1000000000) + st.st_ctim.tv_nsec;
    }
    append(record, NULL, 0);
    errno = errnum;
}

static uint32_t handle_of(int fd)
{
    return fd >= 0 && fd < MAX_FDS && recording() ? atomic_load(&files[fd].handle) : 0;
}

static void unknown(const char *call)
{
    struct iovec name = {(void *)call, strlen(call)};
    begin(POWER_UNKNOWN, 0, 0, 0, 0, &name, 1);
}

/* The name by which the log knows a path: "." the state directory, "/" the image, or what is in
 * the state directory. NULL: it is of no concern. */
static const char *known_name(const char *path)
{
    size_t length = strlen(power_folder);
    if (!recording() || strncmp(path, power_folder, length) != 0 || path[length] != '/')
        return NULL;
    path += length + 1;
    if (strcmp(path, "disk.img") == 0)
        return "/";
    if (strcmp(path, "state") == 0)
        return ".";
    return strncmp(path, "state/", 6) == 0 ? path + 6 : NULL;
}

/* --- names --- */

/* What root has there lies in the run's folder instead. */
static const char *redirect(const char *path, char *buffer, size_t size)
{
    if (!power_active() || strncmp(path, "/run/nbdd/", 10) != 0)
        return path;
    snprintf(buffer, size, "%s/run/%s", power_folder, path + 10);
    return buffer;
}

static int do_open(int folder, const char *path, int flags, mode_t mode)
{
    REAL(int, "openat64", int, const char *, int, ...);
    char other[8192], link[64], target[4096];
    if (power_active() && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        return power_boot_id();
    path = redirect(path, other, sizeof other);
    const char *name = known_name(path);
    bool changes = flags & (O_CREAT | O_TRUNC);
    struct iovec piece = {(void *)name, name ? strlen(name) : 0};
    PowerRecord record;
    if (name && changes)
        record = begin(POWER_OPEN, 0, flags, 0, 0, &piece, 1);
    bool durable = flags & O_DSYNC; /* O_SYNC has that bit, too */
    int fd = real(folder, path, recording() ? flags & ~O_SYNC : flags, mode);
    if (fd >= 0 && fd < MAX_FDS && recording() && !name) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
        name = known_name(target);
        piece = (struct iovec){(void *)name, name ? strlen(name) : 0};
        changes = false;
    }
    if (!name)
        return fd;
    if (!changes)
        record = begin(POWER_OPEN, 0, 0, 0, 0, &piece, 1);
    if (fd >= MAX_FDS)
        unknown("open: too many files");
    if (fd >= 0 && fd < MAX_FDS) {
        record.handle = atomic_fetch_add(&next_handle, 1);
        atomic_store(&files[fd].handle, record.handle);
        atomic_store(&files[fd].durable, durable);
    }
    end(&record, fd, fd);
    return fd;
}

static mode_t optional_mode(int flags, va_list arguments)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = optional_mode(flags, arguments);
    va_end(arguments);
    return do_open(AT_FDCWD, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = optional_mode(flags, arguments);
    va_end(arguments);
    return do_open(folder, path, flags, mode);
}

int close(int fd)
{
    REAL(int, "close", int);
    if (fd >= 0 && fd < MAX_FDS)
        atomic_store(&files[fd].handle, 0);
    return real(fd);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    char other[8192];
    path = redirect(path, other, sizeof other);
    const char *name = known_name(path);
    if (!name)
        return real(path);
    struct iovec piece = {(void *)name, strlen(name)};
    PowerRecord record = begin(POWER_UNLINK, 0, 0, 0, 0, &piece, 1);
    int rc = real(path);
    end(&record, -1, rc);
    return rc;
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    const char *old = known_name(from), *new = known_name(to);
    if (!old != !new)
        unknown("rename out of the state directory");
    if (!old || !new)
        return real(from, to);
    struct iovec pieces[] = {{(void *)old, strlen(old) + 1}, {(void *)new, strlen(new)}};
    PowerRecord record = begin(POWER_RENAME, 0, 0, 0, 0, pieces, 2);
    int rc = real(from, to);
    end(&record, -1, rc);
    return rc;
}

/* --- contents --- */

static ssize_t do_write(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    REAL(ssize_t, "pwritev64v2", int, const struct iovec *, int, off64_t, int);
    uint32_t handle = handle_of(fd);
    if (!handle)
        return real(fd, iov, count, offset, flags);
    bool durable = atomic_load(&files[fd].durable) || flags & (RWF_DSYNC | RWF_SYNC);
    uint64_t length = 0;
    for (int i = 0; i < count; i++)
        length += iov[i].iov_len;
    PowerRecord record = begin(POWER_WRITE, handle, durable ? POWER_DURABLE : 0, (uint64_t)offset,
                               length, iov, count);
    ssize_t n = real(fd, iov, count, offset, flags & ~(RWF_DSYNC | RWF_SYNC));
    end(&record, fd, n < 0 ? -errno : n);
    return n;
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
    struct iovec piece = {(void *)buffer, length};
    return do_write(fd, &piece, 1, offset, 0);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    return do_write(fd, iov, count, offset, 0);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    return do_write(fd, iov, count, offset, flags);
}

ssize_t write(int fd, const void *buffer, size_t length)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!handle_of(fd))
        return real(fd, buffer, length);
    struct iovec piece = {(void *)buffer, length};
    return do_write(fd, &piece, 1, -1, 0); /* -1: at the file's position, which then is in doubt */
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    uint32_t handle = handle_of(fd);
    if (!handle)
        return real(fd, mode, offset, length);
    PowerRecord record =
        begin(POWER_ALLOCATE, handle, mode, (uint64_t)offset, (uint64_t)length, NULL, 0);
    int rc = real(fd, mode, offset, length);
    end(&record, fd, rc);
    return rc;
}

int ftruncate64(int fd, off64_t length)
{
    REAL(int, "ftruncate64", int, off64_t);
    uint32_t handle = handle_of(fd);
    if (!handle)
        return real(fd, length);
    PowerRecord record = begin(POWER_TRUNCATE, handle, 0, 0, (uint64_t)length, NULL, 0);
    int rc = real(fd, length);
    end(&record, fd, rc);
    return rc;
}

int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
    REAL(int, "fsetxattr", int, const char *, const void *, size_t, int);
    uint32_t handle = handle_of(fd);
    if (!handle)
        return real(fd, name, value, size, flags);
    struct iovec pieces[] = {{(void *)name, strlen(name) + 1}, {(void *)value, size}};
    PowerRecord record = begin(POWER_XATTR, handle, flags, 0, 0, pieces, 2);
    int rc = real(fd, name, value, size, flags);
    end(&record, fd, rc);
    return rc;
}

static int do_sync(int fd, PowerKind kind)
{
    uint32_t handle = handle_of(fd);
    if (handle) {
        const char *slow = getenv("NBDD_POWER_SYNC_US");
        PowerRecord record = begin(kind, handle, 0, 0, 0, NULL, 0);
        if (slow)
            usleep((useconds_t)strtoul(slow, NULL, 10));
        end(&record, fd, 0);
    }
    return 0;
}

int fsync(int fd)
{
    return do_sync(fd, POWER_SYNC);
}

int fdatasync(int fd)
{
    return do_sync(fd, POWER_DATASYNC);
}

/* --- what the model does not know --- */

#define UNKNOWN(fd, name)                                                                          \
    do {                                                                                           \
        if (handle_of(fd))                                                                         \
            unknown(name);                                                                         \
    } while (0)

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    REAL(void *, "mmap64", void *, size_t, int, int, int, off64_t);
    if (flags & MAP_SHARED && protection & PROT_WRITE)
        UNKNOWN(fd, "mmap");
    return real(address, length, protection, flags, fd, offset);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags)
{
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    UNKNOWN(out, "copy_file_range");
    return real(in, from, out, to, length, flags);
}

ssize_t splice(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags)
{
    REAL(ssize_t, "splice", int, off64_t *, int, off64_t *, size_t, unsigned);
    UNKNOWN(out, "splice");
    return real(in, from, out, to, length, flags);
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags)
{
    return 0; /* it promises nothing */
}

/* On 64-bit machines these are other names of the same calls. */
int open(const char *, int, ...) __attribute__((alias("open64")));
int openat(int, const char *, int, ...) __attribute__((alias("openat64")));
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
ssize_t pwritev(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev64")));
ssize_t pwritev2(int, const struct iovec *, int, off_t, int) __attribute__((alias("pwritev64v2")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));
int ftruncate(int, off_t) __attribute__((alias("ftruncate64")));
void *mmap(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap64")));
