/* The backend for regular files. */
#include "storage/error.h"
#include "storage/fd_backend.h"
#include "storage/filesystem.h"
#include "storage/sysfs.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Alignment where the kernel does not say what direct I/O needs: no file system wants more. */
#define DIRECT_ALIGN 4096

/* A change gives the file its time first and is made then, and two within a tick have the same one.
 * So a time is taken for what the file is like only when it is older than what a write takes. */
#define SETTLED_NS (INT64_C(2000) * 1000000)

static int change_range(int fd, int mode, uint64_t offset, uint64_t length)
{
    int result;

    do {
        result = fallocate(fd, mode, (off_t)offset, (off_t)length) == 0 ? 0 : -errno;
    } while (result == -EINTR);
    return result == -ENOSYS ? -EOPNOTSUPP : result;
}

static int punch(int fd, uint64_t offset, uint64_t length)
{
    return change_range(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

/* -EOPNOTSUPP: only writing zeroes is left. (tmpfs cannot zero a range and keep it; to punch it and
 * allocate it anew takes three times as long as to write to it.) */
static int zero_range(int fd, uint64_t offset, uint64_t length, unsigned flags)
{
    int result = (flags & IO_MAY_HOLE) != 0 ? punch(fd, offset, length) : -EOPNOTSUPP;

    if (result == -EOPNOTSUPP) {
        result = change_range(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
    }
    return result;
}

static int file_zero(Backend *base, uint64_t offset, uint64_t length, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;
    int result = (flags & IO_FUA) != 0 ? fd_backend_check_sync(backend) : 0;
    RangeHold range;

    if ((flags & IO_NOWAIT) != 0) {
        return -EAGAIN;
    }
    if (result < 0) {
        return result;
    }
    direct_hold(backend, &range, offset, length);
    result = zero_range(base->fd, offset, length, flags);
    data_runs_forget(&backend->data, offset, offset + length);
    direct_release(backend, &range);
    if (result == -EOPNOTSUPP) {
        return (flags & IO_FAST) != 0 ? -ENOTSUP
                                      : fd_backend_write_zeroes(backend, offset, length, flags);
    }
    return result == 0 && (flags & IO_FUA) != 0 ? fd_backend_flush(base) : result;
}

static int file_trim(Backend *base, uint64_t offset, uint64_t length, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;
    int result = (flags & IO_FUA) != 0 ? fd_backend_check_sync(backend) : 0;
    RangeHold range;

    if ((flags & IO_NOWAIT) != 0) {
        return -EAGAIN;
    }
    if (result < 0) {
        return result;
    }
    direct_hold(backend, &range, offset, length);
    result = punch(base->fd, offset, length);
    data_runs_forget(&backend->data, offset, offset + length);
    direct_release(backend, &range);
    if (result == -EOPNOTSUPP) {
        result = 0; /* trim is advice */
    }
    return result == 0 && (flags & IO_FUA) != 0 ? fd_backend_flush(base) : result;
}

/* Where the data that begins at offset ends. */
static int find_hole(FdBackend *backend, uint64_t offset, uint64_t ticket, uint64_t *ret_end)
{
    off_t hole = lseek(backend->base.fd, (off_t)offset, SEEK_HOLE);

    if (hole < 0 && errno != ENXIO && errno != EINVAL && errno != EOPNOTSUPP) {
        return -errno;
    }
    /* ENXIO, or a hole right here: the file changed between the two questions. Else a file system
     * that cannot tell: everything is data. */
    *ret_end = UINT64_MAX;
    if (hole > (off_t)offset) {
        *ret_end = (uint64_t)hole;
        data_runs_add(&backend->data, offset, (uint64_t)hole, ticket);
    }
    return 0;
}

/* Where the next data is, offset itself if it lies in some; *ret_flags: what lies before it. Where
 * there is none that is the end of the file; and what is behind that, of a file that has become
 * shorter, is a hole that nobody may take for zeroes: reads of it fail. */
static int find_data(const FdBackend *backend, uint64_t offset, uint64_t *ret_end,
                     uint32_t *ret_flags, bool *ret_is_data)
{
    off_t data = lseek(backend->base.fd, (off_t)offset, SEEK_DATA);
    struct stat info;

    *ret_flags = EXTENT_HOLE | EXTENT_ZERO;
    *ret_is_data = true;
    *ret_end = data >= 0 ? (uint64_t)data : offset;
    if (data >= 0 || errno == EINVAL || errno == EOPNOTSUPP) {
        return 0;
    }
    if (errno != ENXIO || fstat(backend->base.fd, &info) != 0) {
        return -errno;
    }
    *ret_is_data = false;
    *ret_end = (uint64_t)info.st_size;
    if (*ret_end <= offset) {
        *ret_flags = EXTENT_HOLE;
        *ret_end = UINT64_MAX;
    }
    return 0;
}

/* One question for each run: where a hole ends data begins. */
static int file_extents(Backend *base, uint64_t offset, uint64_t length, ExtentList *list)
{
    FdBackend *backend = (FdBackend *)base;
    uint64_t end = offset + length;
    uint64_t covered = list->total;
    bool is_data = false; /* known to be */

    while (offset < end) {
        uint64_t ticket;
        uint64_t run_end = data_runs_find(&backend->data, offset, &ticket);
        uint32_t flags = 0;
        int result = 0;

        if (run_end == 0 && !is_data) {
            result = find_data(backend, offset, &run_end, &flags, &is_data);
        }
        if (result == 0 && is_data && (run_end == 0 || run_end == offset)) {
            result = find_hole(backend, offset, ticket, &run_end);
            flags = 0;
        }
        if (result < 0) {
            return result;
        }
        run_end = MIN(run_end, end);
        if (!extent_list_add(list, run_end - offset, flags)) {
            return list->total > covered ? 0 : -ENOMEM;
        }
        is_data = is_data && flags != 0;
        offset = run_end;
    }
    return 0;
}

static int64_t nanoseconds(struct timespec time)
{
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static bool file_stamp(Backend *base, BackendStamp *ret_stamp)
{
    struct timespec now;
    struct stat info;

    if (!((FdBackend *)base)->is_prompt || clock_gettime(CLOCK_REALTIME, &now) != 0 ||
        fstat(base->fd, &info) != 0) {
        return false;
    }
    *ret_stamp = (BackendStamp){
        .size = (uint64_t)info.st_size,
        .blocks = (uint64_t)info.st_blocks,
        .mtime = nanoseconds(info.st_mtim),
        .ctime = nanoseconds(info.st_ctim),
    };
    return ret_stamp->ctime < nanoseconds(now) - SETTLED_NS;
}

static int file_refresh(Backend *base, uint64_t *ret_size)
{
    struct stat info;

    if (fstat(base->fd, &info) != 0) {
        return -errno;
    }
    atomic_store(&base->size, (uint64_t)info.st_size);
    data_runs_forget(&((FdBackend *)base)->data, 0, UINT64_MAX);
    *ret_size = (uint64_t)info.st_size;
    return 0;
}

static const BackendOps file_ops = {
    .name = "file",
    .close = fd_backend_close,
    .pread = fd_backend_pread,
    .pwrite = fd_backend_pwrite,
    .zero = file_zero,
    .trim = file_trim,
    .flush = fd_backend_flush,
    .submit = fd_backend_submit,
    .submit_flush = fd_backend_submit_flush,
    .extents = file_extents,
    .stamp = file_stamp,
    .prefetch = fd_backend_prefetch,
    .refresh = file_refresh,
};

static uint32_t preferred_block(const struct stat *info)
{
    uint32_t block = 4096;

    while (block < (uint64_t)info->st_blksize && block < 1024 * 1024) {
        block *= 2;
    }
    return block;
}

/* Sets what direct I/O needs, and opens the file a second time, through the page cache, for its
 * last partial block. */
static bool set_up_direct(FdBackend *backend, GError **error)
{
    Backend *base = &backend->base;
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", base->fd);
    struct statx info;

    base->minimum_block = DIRECT_ALIGN;
    base->memory_align = DIRECT_ALIGN;
    if (statx(base->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
        (info.stx_mask & STATX_DIOALIGN) != 0) {
        if (info.stx_dio_offset_align == 0) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                        "%s: its file system does not support direct I/O (cache=direct)",
                        base->path);
            return false;
        }
        base->minimum_block = info.stx_dio_offset_align;
        base->memory_align = MAX(info.stx_dio_mem_align, 1);
    }
    base->preferred_block = MAX(base->preferred_block, base->minimum_block);
    if (!base->read_only) {
        backend->tail_fd = open(link, O_RDWR | O_CLOEXEC);
        if (backend->tail_fd < 0) {
            storage_error_set_errno(error, errno, "cannot open %s a second time", base->path);
            return false;
        }
    }
    return true;
}

Backend *file_backend_new(const char *path, int fd, bool read_only, CacheMode cache, GError **error)
{
    FdBackend *backend;
    Backend *base;
    struct stat info;

    if (fstat(fd, &info) != 0) {
        storage_error_set_errno(error, errno, "cannot look at %s", path);
        return NULL;
    }
    backend = g_new0(FdBackend, 1);
    base = &backend->base;
    fd_backend_init(backend, &file_ops, path, fd, read_only, cache);
    base->identity = (BackendIdentity){.device = info.st_dev, .inode = info.st_ino};
    base->size = (uint64_t)info.st_size;
    base->preferred_block = preferred_block(&info);
    base->rotational = sysfs_queue_value(info.st_dev, "rotational", 0) != 0;
    backend->is_prompt = filesystem_is_prompt(fd);
    backend->finds_room_late = filesystem_finds_room_late(fd);
    /* Whether the file system can punch and zero is only known by doing it, which would touch the
     * file: assumed here, and answered request by request. */
    base->can_trim = !read_only;
    base->can_fast_zero = !read_only;
    if (cache == CACHE_DIRECT && !set_up_direct(backend, error)) {
        base->fd = -1; /* the caller's still */
        fd_backend_close(base);
        return NULL;
    }
    return base;
}
