/* The backend for block devices. */
#include "storage/error.h"
#include "storage/fd_backend.h"
#include "storage/sysfs.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the kernel zeroes or discards for us is whole pages, so that it never has to drop a cached
 * page that other bytes live in. */
#define UNIT ((uint64_t)4096)

static int device_range(int fd, unsigned long request, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};
    int result;

    do {
        result = ioctl(fd, request, range) == 0 ? 0 : -errno;
    } while (result == -EINTR);
    return result == -ENOTTY || result == -ENOSYS ? -EOPNOTSUPP : result;
}

/* The whole units inside [offset, end); false when there are none. */
static bool inner_range(uint64_t offset, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
    *ret_start = (offset + UNIT - 1) / UNIT * UNIT;
    *ret_end = end / UNIT * UNIT;
    return *ret_start < *ret_end;
}

/* Zeroes whole units without writing them one by one if the device can: -EOPNOTSUPP if not. */
static int zero_offloaded(Backend *base, uint64_t offset, uint64_t length, unsigned flags)
{
    int result = -EOPNOTSUPP;

    if ((flags & IO_MAY_HOLE) != 0) {
        do {
            result = fallocate(base->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                               (off_t)length) == 0
                         ? 0
                         : -errno;
        } while (result == -EINTR);
    }
    if (result != -EOPNOTSUPP && result != -ENODEV && result != -EINVAL) {
        return result;
    }
    /* BLKZEROOUT writes where the device cannot zero, and does not say so. */
    return base->can_fast_zero ? device_range(base->fd, BLKZEROOUT, offset, length) : -EOPNOTSUPP;
}

static int zero_inner(Backend *base, uint64_t offset, uint64_t length, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;
    RangeHold range;
    int result;

    direct_hold(backend, &range, offset, length);
    result = zero_offloaded(base, offset, length, flags);
    direct_release(backend, &range);
    if (result != -EOPNOTSUPP) {
        return result;
    }
    return (flags & IO_FAST) != 0 ? -ENOTSUP : fd_backend_write_zeroes(backend, offset, length, 0);
}

static int block_zero(Backend *base, uint64_t offset, uint64_t length, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;
    int result = (flags & IO_FUA) != 0 ? fd_backend_check_sync(backend) : 0;
    uint64_t end = offset + length;
    uint64_t start, stop;

    if ((flags & IO_NOWAIT) != 0) {
        return -EAGAIN;
    }
    if (result < 0) {
        return result;
    }
    if (inner_range(offset, end, &start, &stop)) {
        /* The inside first: it may turn out that nothing is to be done (IO_FAST). */
        result = zero_inner(base, start, stop - start, flags);
    } else {
        start = end;
        stop = end;
    }
    if (result == 0 && offset < start) {
        result = fd_backend_write_zeroes(backend, offset, start - offset, 0);
    }
    if (result == 0 && stop < end) {
        result = fd_backend_write_zeroes(backend, stop, end - stop, 0);
    }
    return result == 0 && (flags & IO_FUA) != 0 ? fd_backend_flush(base) : result;
}

static int block_trim(Backend *base, uint64_t offset, uint64_t length, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;
    int result = (flags & IO_FUA) != 0 ? fd_backend_check_sync(backend) : 0;
    uint64_t start, stop;
    RangeHold range;

    if ((flags & IO_NOWAIT) != 0) {
        return -EAGAIN;
    }
    /* Trim is advice: parts of a unit stay as they are. */
    if (result == 0 && base->can_trim && inner_range(offset, offset + length, &start, &stop)) {
        direct_hold(backend, &range, start, stop - start);
        result = device_range(base->fd, BLKDISCARD, start, stop - start);
        direct_release(backend, &range);
        if (result == -EOPNOTSUPP) {
            result = 0;
        }
    }
    return result == 0 && (flags & IO_FUA) != 0 ? fd_backend_flush(base) : result;
}

/* A device does not tell what was never written. */
static int block_extents(Backend *base, uint64_t offset, uint64_t length, ExtentList *list)
{
    return extent_list_add(list, length, 0) || list->count > 0 ? 0 : -ENOMEM;
}

static int device_size(int fd, uint64_t *ret_size)
{
    return ioctl(fd, BLKGETSIZE64, ret_size) == 0 ? 0 : -errno;
}

static int block_refresh(Backend *base, uint64_t *ret_size)
{
    uint64_t size = 0;
    int result = device_size(base->fd, &size);

    if (result == 0) {
        atomic_store(&base->size, size);
        *ret_size = size;
    }
    return result;
}

static const BackendOps block_ops = {
    .name = "block",
    .close = fd_backend_close,
    .pread = fd_backend_pread,
    .pwrite = fd_backend_pwrite,
    .zero = block_zero,
    .trim = block_trim,
    .flush = fd_backend_flush,
    .submit = fd_backend_submit,
    .submit_flush = fd_backend_submit_flush,
    .extents = block_extents,
    .prefetch = fd_backend_prefetch,
    .refresh = block_refresh,
};

static bool set_up(FdBackend *backend, dev_t device, GError **error)
{
    Backend *base = &backend->base;
    unsigned physical = 0;
    uint64_t size = 0;
    int logical = 0;
    int result = device_size(base->fd, &size);

    if (result == 0 && ioctl(base->fd, BLKSSZGET, &logical) != 0) {
        result = -errno;
    }
    if (result < 0) {
        storage_error_set_errno(error, -result, "cannot ask %s for its size", base->path);
        return false;
    }
    if (ioctl(base->fd, BLKPBSZGET, &physical) == 0 && physical <= 1024 * 1024) {
        base->preferred_block = MAX(base->preferred_block, physical);
    }
    base->size = size;
    base->identity = (BackendIdentity){.device = device};
    base->rotational = sysfs_queue_value(device, "rotational", 0) != 0;
    base->can_trim = !base->read_only && sysfs_queue_value(device, "discard_max_bytes", 0) != 0;
    base->can_fast_zero =
        !base->read_only && sysfs_queue_value(device, "write_zeroes_max_bytes", 0) != 0;
    if (base->cache == CACHE_DIRECT) {
        base->minimum_block = (uint32_t)logical;
        base->memory_align = (uint32_t)logical;
        base->preferred_block = MAX(base->preferred_block, base->minimum_block);
    }
    return true;
}

Backend *block_backend_new(const char *path, int fd, bool read_only, CacheMode cache,
                           GError **error)
{
    FdBackend *backend;
    struct stat info;

    if (fstat(fd, &info) != 0) {
        storage_error_set_errno(error, errno, "cannot look at %s", path);
        return NULL;
    }
    backend = g_new0(FdBackend, 1);
    fd_backend_init(backend, &block_ops, path, fd, read_only, cache);
    if (!set_up(backend, info.st_rdev, error)) {
        backend->base.fd = -1; /* the caller's still */
        fd_backend_close(&backend->base);
        return NULL;
    }
    return &backend->base;
}
