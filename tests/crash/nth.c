/* A library to preload into nbdd that makes one call fail: the Nth of its kind.
 *
 * The sweep maps the file that NBDD_NTH_FILE names and fills in `Page`; the daemon maps it too, so
 * that a call can be chosen while it runs. Files are regular ones alone, and not the log (whatever
 * is open as 0, 1 and 2).
 *
 * Memory is told apart by who asks for it: our own code, SQLite, json-c. What GLib asks for is left
 * alone: without memory it ends the process by design. So do GnuTLS, for the numbers of GMP, and
 * libtasn1, which does not look at what it gets. For whom libc asks cannot be told. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* As in nth_sweep.py. */
enum { SYNC, WRITE, SIZE, OPEN, NAME, READ, MAP, THREAD, OWN, SQLITE, JSON, KINDS };

typedef struct {
    struct {
        _Atomic int64_t calls, failing; /* so many have been; the number of the one that fails */
    } kinds[KINDS];
    _Atomic int64_t errnum; /* what files fail with */
    _Atomic int64_t failed; /* so many have failed */
    _Atomic uint64_t where; /* offset of the caller in its program or library */
} Page;

typedef struct {
    uintptr_t start, end, base;
    int kind;
} Range;

static Page *page;
static Range ranges[64];
static _Atomic int range_count;

static int kind_of(const char *path)
{
    static const struct {
        const char *part;
        int kind;
    } parts[] = {{"libsqlite3", SQLITE}, {"libjson-c", JSON}};
    if (path[0] == 0)
        return OWN; /* the program itself */
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strstr(path, parts[i].part))
            return parts[i].kind;
    }
    return -1;
}

static int add_ranges(struct dl_phdr_info *info, size_t size, void *data)
{
    int kind = kind_of(info->dlpi_name);
    for (int i = 0; kind >= 0 && i < info->dlpi_phnum && range_count < 64; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && (header->p_flags & PF_X)) {
            uintptr_t start = info->dlpi_addr + header->p_vaddr;
            ranges[range_count++] = (Range){start, start + header->p_memsz, info->dlpi_addr, kind};
        }
    }
    return 0;
}

__attribute__((constructor)) static void nth_start(void)
{
    const char *path = getenv("NBDD_NTH_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    dl_iterate_phdr(add_ranges, NULL);
    if (map != MAP_FAILED)
        page = map;
}

static bool fails(int kind)
{
    if (!page)
        return false;
    int64_t number = atomic_fetch_add(&page->kinds[kind].calls, 1);
    if (number != atomic_load(&page->kinds[kind].failing))
        return false;
    atomic_fetch_add(&page->failed, 1);
    return true;
}

static bool file_fails(int kind, int fd)
{
    struct stat info;
    if (!page || fd < 3 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || !fails(kind))
        return false;
    errno = (int)atomic_load(&page->errnum);
    return true;
}

static bool memory_fails(void *caller)
{
    uintptr_t address = (uintptr_t)caller;
    for (int i = 0; page && i < range_count; i++) {
        if (address >= ranges[i].start && address < ranges[i].end) {
            if (!fails(ranges[i].kind))
                return false;
            atomic_store(&page->where, address - ranges[i].base);
            errno = ENOMEM;
            return true;
        }
    }
    return false;
}

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* --- files --- */

int fsync(int fd)
{
    REAL(int, "fsync", int);
    return file_fails(SYNC, fd) ? -1 : real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    return file_fails(SYNC, fd) ? -1 : real(fd);
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    return file_fails(READ, fd) ? -1 : real(fd, buffer, length, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return file_fails(WRITE, fd) ? -1 : real(fd, buffer, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    return file_fails(WRITE, fd) ? -1 : real(fd, iov, count, offset);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
    REAL(ssize_t, "pwritev64v2", int, const struct iovec *, int, off64_t, int);
    return file_fails(WRITE, fd) || ((flags & RWF_DSYNC) && file_fails(SYNC, fd))
               ? -1
               : real(fd, iov, count, offset, flags);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    return file_fails(SIZE, fd) ? -1 : real(fd, mode, offset, length);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    return file_fails(SIZE, fd) ? errno : real(fd, offset, length);
}

int ftruncate64(int fd, off64_t size)
{
    REAL(int, "ftruncate64", int, off64_t);
    return file_fails(SIZE, fd) ? -1 : real(fd, size);
}

static bool name_fails(int kind)
{
    if (!fails(kind))
        return false;
    errno = (int)atomic_load(&page->errnum);
    return true;
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    return name_fails(NAME) ? -1 : real(from, to);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    return name_fails(NAME) ? -1 : real(path);
}

int open64(const char *path, int flags, ...)
{
    REAL(int, "open64", const char *, int, ...);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        __builtin_va_list arguments;
        __builtin_va_start(arguments, flags);
        mode = __builtin_va_arg(arguments, mode_t);
        __builtin_va_end(arguments);
    }
    return name_fails(OPEN) ? -1 : real(path, flags, mode);
}

/* --- threads and memory --- */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *data)
{
    REAL(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    return fails(THREAD) ? EAGAIN : real(thread, attributes, start, data);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    REAL(void *, "mmap64", void *, size_t, int, int, int, off64_t);
    if (!fails(MAP))
        return real(at, length, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
    void *memory =
        memory_fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
    if (!memory)
        return ENOMEM;
    *pointer = memory;
    return 0;
}

/* On 64-bit machines these are other names of the same calls. */
ssize_t pread(int, void *, size_t, off_t) __attribute__((alias("pread64")));
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
ssize_t pwritev(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev64")));
ssize_t pwritev2(int, const struct iovec *, int, off_t, int) __attribute__((alias("pwritev64v2")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));
int posix_fallocate(int, off_t, off_t) __attribute__((alias("posix_fallocate64")));
int ftruncate(int, off_t) __attribute__((alias("ftruncate64")));
int open(const char *, int, ...) __attribute__((alias("open64")));
void *mmap(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap64")));
