/* CACHE_DIRECT: requests of any alignment on a descriptor that takes only aligned ones.
 *
 * Aligned requests go straight through. Others are copied through a bounce buffer; a write that
 * covers a block in part reads the rest of it first, and nobody else may write to that block until
 * it is back: such writes hold their range exclusively, all other writes hold theirs shared.
 *
 * A last block that the file fills only in part cannot be written directly without making the file
 * longer. Its bytes go through the page cache (tail_fd), whose unit is the page: so ranges are
 * held in whole pages, and a direct write to the same page, which first writes back and then drops
 * the cached one, never meets a page that is being filled. */
#include "storage/fd_backend.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOUNCE_BYTES ((size_t)256 * 1024)
#define PAGE_BYTES   ((uint64_t)4096)

static uint64_t round_down(uint64_t value, uint64_t unit)
{
    return value - value % unit;
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return round_down(value + unit - 1, unit);
}

/* Room for length bytes rounded out to blocks, bounded; NULL when memory is short. */
static void *bounce_new(const Backend *base, uint64_t offset, size_t length, size_t *ret_size)
{
    uint64_t block = base->minimum_block;
    uint64_t span = round_up(offset + length, block) - round_down(offset, block);
    size_t size = (size_t)MIN(span, (uint64_t)MAX(BOUNCE_BYTES, block));
    size_t align = MAX(MAX(base->memory_align, base->minimum_block), (size_t)PAGE_BYTES);
    void *buffer;

    if (posix_memalign(&buffer, align, size) != 0) {
        return NULL;
    }
    *ret_size = size;
    return buffer;
}

static bool is_block_aligned(const Backend *base, uint64_t offset, uint64_t length)
{
    return offset % base->minimum_block == 0 && length % base->minimum_block == 0;
}

static bool is_memory_aligned(const Backend *base, const void *buffer)
{
    return (uintptr_t)buffer % base->memory_align == 0;
}

/* Bytes read, fewer only at the end of the file, or a negative errno. A count that is no multiple
 * of the block is that end: what is behind it may not even be asked for at such an offset. */
static ssize_t read_blocks(const Backend *base, char *buffer, size_t length, uint64_t offset)
{
    size_t done = 0;

    while (done < length && done % base->minimum_block == 0) {
        ssize_t got = pread(base->fd, buffer + done, length - done, (off_t)(offset + done));

        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        if (got == 0) {
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)done;
}

/* All of it; the end of the file where there were bytes once is an error. */
static int read_all_blocks(const Backend *base, char *buffer, size_t length, uint64_t offset)
{
    ssize_t got = read_blocks(base, buffer, length, offset);

    return got < 0 ? (int)got : (size_t)got == length ? 0 : -EIO;
}

int direct_pread(FdBackend *backend, void *buffer, size_t length, uint64_t offset)
{
    const Backend *base = &backend->base;
    uint64_t block = base->minimum_block;
    char *to = buffer;
    size_t size = 0;
    char *bounce;
    int result = 0;

    if (is_block_aligned(base, offset, length) && is_memory_aligned(base, buffer)) {
        return read_all_blocks(base, buffer, length, offset);
    }
    bounce = bounce_new(base, offset, length, &size);
    if (bounce == NULL) {
        return -ENOMEM;
    }
    while (result == 0 && length > 0) {
        uint64_t start = round_down(offset, block);
        size_t skip = (size_t)(offset - start);
        size_t piece = MIN(length, size - skip);
        size_t span = (size_t)round_up(skip + piece, block);
        ssize_t got = read_blocks(base, bounce, span, start);

        if (got < 0) {
            result = (int)got;
        } else if ((size_t)got < skip + piece) {
            result = -EIO;
        } else {
            memcpy(to, bounce + skip, piece);
            to += piece;
            offset += piece;
            length -= piece;
        }
    }
    free(bounce);
    return result;
}

/* The range lies in blocks that the file fills; the caller holds it, exclusively if it begins or
 * ends inside a block. */
static int write_bounced(FdBackend *backend, const char *from, size_t length, uint64_t offset,
                         unsigned flags)
{
    const Backend *base = &backend->base;
    uint64_t block = base->minimum_block;
    size_t size = 0;
    char *bounce = bounce_new(base, offset, length, &size);
    int result = bounce != NULL ? 0 : -ENOMEM;

    while (result == 0 && length > 0) {
        uint64_t start = round_down(offset, block);
        size_t skip = (size_t)(offset - start);
        size_t piece = MIN(length, size - skip);
        size_t span = (size_t)round_up(skip + piece, block);
        size_t last = span - (size_t)block;
        bool partial_end = skip + piece < span;

        if (skip > 0) {
            result = read_all_blocks(base, bounce, block, start);
        }
        if (result == 0 && partial_end && (last > 0 || skip == 0)) {
            result = read_all_blocks(base, bounce + last, block, start + last);
        }
        if (result == 0) {
            memcpy(bounce + skip, from, piece);
            result = fd_backend_write_fd(backend, base->fd, bounce, span, start, flags);
        }
        from += piece;
        offset += piece;
        length -= piece;
    }
    free(bounce);
    return result;
}

bool direct_is_plain(const FdBackend *backend, const void *buffer, size_t length, uint64_t offset)
{
    const Backend *base = &backend->base;

    return is_block_aligned(base, offset, length) && is_memory_aligned(base, buffer);
}

/* Rounds a range out to what is held of it. */
static void held_range(const FdBackend *backend, uint64_t *offset, uint64_t *length)
{
    uint64_t unit = MAX((uint64_t)backend->base.minimum_block, PAGE_BYTES);
    uint64_t end = round_up(*offset + *length, unit);

    *offset = round_down(*offset, unit);
    *length = end - *offset;
}

static void hold(FdBackend *backend, RangeHold *range, uint64_t offset, uint64_t length,
                 bool exclusive)
{
    held_range(backend, &offset, &length);
    range_lock_acquire(&backend->ranges, range, offset, length, exclusive);
}

bool direct_try_hold(FdBackend *backend, RangeHold *range, uint64_t offset, uint64_t length)
{
    held_range(backend, &offset, &length);
    return range_lock_try(&backend->ranges, range, offset, length, false);
}

void direct_hold(FdBackend *backend, RangeHold *range, uint64_t offset, uint64_t length)
{
    if (backend->base.cache == CACHE_DIRECT) {
        hold(backend, range, offset, length,
             offset % PAGE_BYTES != 0 || (offset + length) % PAGE_BYTES != 0);
    }
}

void direct_release(FdBackend *backend, RangeHold *range)
{
    if (backend->base.cache == CACHE_DIRECT) {
        range_lock_release(&backend->ranges, range);
    }
}

int direct_pwrite(FdBackend *backend, const void *buffer, size_t length, uint64_t offset,
                  unsigned flags)
{
    const Backend *base = &backend->base;
    uint64_t block = base->minimum_block;
    uint64_t tail = round_down(atomic_load(&base->size), block);
    uint64_t end = offset + length;
    bool aligned = is_block_aligned(base, offset, length);
    size_t body = offset >= tail ? 0 : (size_t)(MIN(end, tail) - offset);
    RangeHold range;
    int result = 0;

    hold(backend, &range, offset, length, !aligned);
    if (body > 0 && is_block_aligned(base, offset, body) && is_memory_aligned(base, buffer)) {
        result = fd_backend_write_fd(backend, base->fd, buffer, body, offset, flags);
    } else if (body > 0) {
        result = write_bounced(backend, buffer, body, offset, flags);
    }
    if (result == 0 && body < length) {
        result = fd_backend_write_fd(backend, backend->tail_fd, (const char *)buffer + body,
                                     length - body, offset + body, flags);
    }
    range_lock_release(&backend->ranges, &range);
    return result;
}
