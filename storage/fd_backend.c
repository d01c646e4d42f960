#include "storage/fd_backend.h"
#include "storage/fault.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Zeroes to write where a file system cannot zero: bounded, shared, never written to. */
#define ZERO_BYTES  65536
#define ZERO_PIECES 16
static _Alignas(4096) char zeroes[ZERO_BYTES];

/* A prefetch is split because the kernel cuts each request to its read-ahead window, and bounded
 * because a client chose its length: to that of the largest read. */
#define PREFETCH_STEP (128 * 1024)
#define PREFETCH_MAX  (32 * 1024 * 1024)

void fd_backend_init(FdBackend *backend, const BackendOps *ops, const char *path, int fd,
                     bool read_only, CacheMode cache)
{
    Backend *base = &backend->base;

    base->ops = ops;
    base->path = g_strdup(path);
    base->fd = fd;
    base->read_only = read_only;
    base->cache = cache;
    base->minimum_block = 1;
    base->memory_align = 1;
    base->preferred_block = 4096;
    base->submits_writes = cache == CACHE_DIRECT;
    base->splice_ok = cache == CACHE_WRITEBACK;
    base->prefetch_max = cache == CACHE_DIRECT ? 0 : PREFETCH_MAX;
    backend->tail_fd = -1;
    range_lock_init(&backend->ranges);
    data_runs_init(&backend->data);
    sync_group_init(&backend->syncs);
}

void fd_backend_close(Backend *base)
{
    FdBackend *backend = (FdBackend *)base;

    if (backend->tail_fd >= 0) {
        close(backend->tail_fd);
    }
    if (base->fd >= 0) {
        close(base->fd);
    }
    range_lock_destroy(&backend->ranges);
    data_runs_destroy(&backend->data);
    sync_group_destroy(&backend->syncs);
    g_free(base->path);
    g_free(backend);
}

/* --- reading --- */

static int pread_all(int fd, void *buffer, size_t length, uint64_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t got = pread(fd, (char *)buffer + done, length - done, (off_t)(offset + done));

        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        if (got == 0) {
            /* The file has become shorter behind our back: its bytes are gone, not zero. */
            return -EIO;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

/* Answers only from the page cache. -EOPNOTSUPP: this file system cannot tell. */
static int pread_cached(int fd, void *buffer, size_t length, uint64_t offset)
{
    struct iovec piece = {.iov_base = buffer, .iov_len = length};
    ssize_t got;

    do {
        got = preadv2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno == ENOSYS || errno == EINVAL ? -EOPNOTSUPP : -errno;
    }
    /* Cut short: the rest is not cached, or beyond the end; reading it in full will tell. */
    return (size_t)got == length ? 0 : -EAGAIN;
}

static int pread_inline(FdBackend *backend, void *buffer, size_t length, uint64_t offset)
{
    int fd = backend->base.fd;
    int64_t start;
    int result;

    if (!atomic_load_explicit(&backend->no_nowait, memory_order_relaxed)) {
        result = pread_cached(fd, buffer, length, offset);
        if (result != -EOPNOTSUPP) {
            return result;
        }
        atomic_store_explicit(&backend->no_nowait, true, memory_order_relaxed);
    }
    start = inline_gate_now();
    if (!inline_gate_is_open(&backend->gate, start)) {
        return -EAGAIN;
    }
    result = pread_all(fd, buffer, length, offset);
    inline_gate_report(&backend->gate, start, inline_gate_now(), length);
    return result;
}

int fd_backend_pread(Backend *base, void *buffer, size_t length, uint64_t offset, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;

    if (base->cache == CACHE_DIRECT) {
        return (flags & IO_NOWAIT) != 0 ? -EAGAIN : direct_pread(backend, buffer, length, offset);
    }
    if ((flags & IO_NOWAIT) != 0) {
        return pread_inline(backend, buffer, length, offset);
    }
    return pread_all(base->fd, buffer, length, offset);
}

/* --- syncing --- */

int fd_backend_check_sync(FdBackend *backend)
{
    return sync_group_check(&backend->syncs);
}

int fd_backend_flush(Backend *base)
{
    return fault("flush-without-sync") ? 0 : sync_group_sync(&((FdBackend *)base)->syncs, base->fd);
}

/* --- writing --- */

static int write_pieces(int fd, const struct iovec *pieces, int count, size_t length,
                        uint64_t offset, int rw_flags)
{
    const char *data = pieces[0].iov_base;
    ssize_t put;
    size_t done;

    do {
        put = rw_flags != 0 ? pwritev2(fd, pieces, count, (off_t)offset, rw_flags)
                            : pwritev(fd, pieces, count, (off_t)offset);
    } while (put < 0 && errno == EINTR);
    if (put < 0) {
        return -errno;
    }
    /* Cut short: go on with what is left. Several pieces are only ever the same zeroes again. */
    for (done = (size_t)put; done < length; done += (size_t)put) {
        struct iovec rest = {.iov_base = (void *)data, .iov_len = length - done};

        if (count == 1) {
            rest.iov_base = (void *)(data + done);
        } else {
            rest.iov_len = MIN(rest.iov_len, pieces[0].iov_len);
        }
        put = rw_flags != 0 ? pwritev2(fd, &rest, 1, (off_t)(offset + done), rw_flags)
                            : pwritev(fd, &rest, 1, (off_t)(offset + done));
        if (put == 0) {
            return -EIO;
        }
        if (put < 0) {
            if (errno != EINTR) {
                return -errno;
            }
            put = 0;
        }
    }
    return 0;
}

static int write_plain(int fd, const void *buffer, size_t length, uint64_t offset, int rw_flags)
{
    struct iovec piece = {.iov_base = (void *)buffer, .iov_len = length};

    return write_pieces(fd, &piece, 1, length, offset, rw_flags);
}

/* What a write is refused with before anything is done for it. A sync can fail with nearly anything
 * else that a device or a server may answer; without room, for want of that where it is found late.
 * (Elsewhere a full file system is no reason to take no flush from then on.) */
static bool is_refusal(const FdBackend *backend, int result)
{
    switch (-result) {
    case EFBIG:
    case EINVAL:
    case EPERM:
    case EROFS:
        return true;
    case ENOSPC:
    case EDQUOT:
        return !backend->finds_room_late;
    default:
        return false;
    }
}

/* A write with RWF_DSYNC fails in its write or in its sync, and does not say in which. The sync
 * may not be asked again, but the write may: if it succeeds alone, it was the sync, and a page that
 * the kernel had to drop may be anybody's. If it fails as well it may have been the sync all the
 * same, of a device that is gone for now, and a later one will not tell: so it was, unless the
 * write was refused twice. */
static int write_durable(FdBackend *backend, int fd, const void *buffer, size_t length,
                         uint64_t offset)
{
    bool supported;
    unsigned turn;
    int result;

    if (atomic_load_explicit(&backend->no_dsync, memory_order_relaxed)) {
        result = write_plain(fd, buffer, length, offset, 0);
        return result < 0 ? result : fd_backend_flush(&backend->base);
    }
    turn = sync_group_begin_write(&backend->syncs);
    result = write_plain(fd, buffer, length, offset, RWF_DSYNC);
    supported = result != -EOPNOTSUPP && result != -ENOSYS;
    if (result < 0 && supported) {
        int again = write_plain(fd, buffer, length, offset, 0);

        if (again != result || !is_refusal(backend, result)) {
            sync_group_fail(&backend->syncs);
        }
    }
    sync_group_end_write(&backend->syncs, turn);
    if (!supported) {
        atomic_store_explicit(&backend->no_dsync, true, memory_order_relaxed);
        return write_durable(backend, fd, buffer, length, offset);
    }
    /* Another one may have been told of this one's page. (One that is told later than this one ends
     * is not waited for: with many at once that would double the time of each.) */
    return result < 0 ? result : fd_backend_check_sync(backend);
}

int fd_backend_write_fd(FdBackend *backend, int fd, const void *buffer, size_t length,
                        uint64_t offset, unsigned flags)
{
    int result;

    if ((flags & IO_FUA) == 0 || fault("fua-without-sync")) {
        return write_plain(fd, buffer, length, offset, 0);
    }
    result = fd_backend_check_sync(backend);
    return result < 0 ? result : write_durable(backend, fd, buffer, length, offset);
}

static int pwrite_inline(FdBackend *backend, const void *buffer, size_t length, uint64_t offset)
{
    int64_t start = inline_gate_now();
    int result;

    if (!inline_gate_is_open(&backend->gate, start)) {
        return -EAGAIN;
    }
    result = write_plain(backend->base.fd, buffer, length, offset, 0);
    inline_gate_report(&backend->gate, start, inline_gate_now(), length);
    return result;
}

int fd_backend_pwrite(Backend *base, const void *buffer, size_t length, uint64_t offset,
                      unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;

    if ((flags & IO_NOWAIT) != 0) {
        return base->cache == CACHE_DIRECT || (flags & IO_FUA) != 0
                   ? -EAGAIN
                   : pwrite_inline(backend, buffer, length, offset);
    }
    if (base->cache == CACHE_DIRECT) {
        return direct_pwrite(backend, buffer, length, offset, flags);
    }
    return fd_backend_write_fd(backend, base->fd, buffer, length, offset, flags);
}

static int write_zero_pieces(FdBackend *backend, uint64_t offset, size_t length)
{
    struct iovec pieces[ZERO_PIECES];
    size_t left = length;
    int count = 0;

    while (left > 0) {
        size_t piece = MIN(left, (size_t)ZERO_BYTES);

        pieces[count++] = (struct iovec){.iov_base = zeroes, .iov_len = piece};
        left -= piece;
    }
    return write_pieces(backend->base.fd, pieces, count, length, offset, 0);
}

int fd_backend_write_zeroes(FdBackend *backend, uint64_t offset, uint64_t length, unsigned flags)
{
    bool direct = backend->base.cache == CACHE_DIRECT;
    uint64_t end = offset + length;
    int result = (flags & IO_FUA) != 0 ? fd_backend_check_sync(backend) : 0;

    while (result == 0 && offset < end) {
        /* Pieces end on multiples of their size, so that under CACHE_DIRECT only the first and
         * the last can be unaligned. */
        size_t step = direct ? ZERO_BYTES : ZERO_BYTES * ZERO_PIECES;
        size_t piece = (size_t)MIN(step - offset % step, end - offset);

        result = direct ? direct_pwrite(backend, zeroes, piece, offset, 0)
                        : write_zero_pieces(backend, offset, piece);
        offset += piece;
    }
    if (result == 0 && (flags & IO_FUA) != 0) {
        result = fd_backend_flush(&backend->base);
    }
    return result;
}

int fd_backend_prefetch(Backend *base, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + MIN(length, base->prefetch_max);

    for (; offset < end; offset += PREFETCH_STEP) {
        uint64_t piece = MIN((uint64_t)PREFETCH_STEP, end - offset);
        int errnum = posix_fadvise(base->fd, (off_t)offset, (off_t)piece, POSIX_FADV_WILLNEED);

        if (errnum != 0 && errnum != EINTR) {
            return -errnum;
        }
    }
    return 0;
}
