/* A backend: something that holds the bytes of a disk (a file, a block device, more later).
 *
 * All I/O calls are thread-safe, answer 0 or a negative errno, move everything or fail, and never
 * retry a failed sync: after one, IO_FUA and flush answer -EIO for as long as the backend is open
 * (the kernel reports a lost page once, and may have dropped it). Offsets and lengths are bytes and
 * lie inside `size`: the caller has checked. Backends know nothing of dirty tracking: disk.h puts
 * that on top.
 *
 * To add one: a file with a BackendOps, a row in backend_open()'s table, a test. */
#ifndef STORAGE_BACKEND_H
#define STORAGE_BACKEND_H

#include "storage/engine.h"
#include "storage/extents.h"
#include "storage/range_lock.h"
#include "storage/sync_group.h"
#include <glib.h>
#include <sys/types.h>

typedef struct Backend Backend;

typedef enum {
    CACHE_WRITEBACK, /* through the page cache */
    CACHE_DIRECT,    /* O_DIRECT; unaligned requests go through a bounce buffer */
} CacheMode;

/* Flags of I/O calls; each operation lists what it heeds. */
#define IO_NOWAIT   0x01u /* -EAGAIN instead of anything that may block for long */
#define IO_FUA      0x02u /* durable before the call answers */
#define IO_MAY_HOLE 0x04u /* zeroing may punch a hole (NBD: NO_HOLE not set) */
#define IO_FAST     0x08u /* zeroing: -ENOTSUP at once if it would be as slow as writing */

/* A transfer that finishes on its lane's thread, or on one of the engine. Embedded in the caller's
 * request; the backend does not touch it once `done`, which must not block, has been called. */
typedef struct BackendIo BackendIo;
struct BackendIo {
    void (*done)(BackendIo *io, int result);

    /* the backend's */
    EngineIo engine_io;
    Backend *backend;
    RangeHold hold;
    SyncWaiter sync;
};

typedef struct {
    uint64_t size, blocks;
    int64_t mtime, ctime; /* nanoseconds */
} BackendStamp;

typedef struct {
    const char *name; /* "file", "block": shown in disk.show as `backend` */
    void (*close)(Backend *backend);
    int (*pread)(Backend *backend, void *buffer, size_t length, uint64_t offset, unsigned flags);
    int (*pwrite)(Backend *backend, const void *buffer, size_t length, uint64_t offset,
                  unsigned flags);
    int (*zero)(Backend *backend, uint64_t offset, uint64_t length, unsigned flags);
    int (*trim)(Backend *backend, uint64_t offset, uint64_t length, unsigned flags);
    int (*flush)(Backend *backend);
    /* Starts a pread or pwrite that needs no thread to wait for it. False, and nothing was started:
     * not this transfer, or not on this lane; have a job do it. */
    bool (*submit)(Backend *backend, EngineLane *lane, BackendIo *io, bool write, void *buffer,
                   size_t length, uint64_t offset, unsigned flags);
    /* Starts a flush; many at once take one thread. False: as above. */
    bool (*submit_flush)(Backend *backend, Engine *engine, BackendIo *io);
    /* Appends base:allocation extents that cover [offset, +length) as far as list's bound allows;
     * at least one. May answer coarser than the truth, never "zero" for data, nor for what a file
     * that has become shorter does not have any more. */
    int (*extents)(Backend *backend, uint64_t offset, uint64_t length, ExtentList *list);
    /* What tells two states of the contents apart: between two equal stamps nobody, not even past
     * all locks, has turned a hole into data or data into a hole. False: it cannot be told, or not
     * yet. NULL: never. */
    bool (*stamp)(Backend *backend, BackendStamp *ret_stamp);
    /* A hint; of more than prefetch_max the beginning. */
    int (*prefetch)(Backend *backend, uint64_t offset, uint64_t length);
    /* Looks at the size again. */
    int (*refresh)(Backend *backend, uint64_t *ret_size);
} BackendOps;

/* Which inode or device it is: one of them is one disk. */
typedef struct {
    uint64_t device; /* st_dev; of a block device st_rdev */
    uint64_t inode;  /* 0 for a block device, whose nodes may have any number of names */
} BackendIdentity;

/* What a backend found out when it was opened. Only `size` changes later (refresh; atomic). */
struct Backend {
    const BackendOps *ops;
    char *path;
    BackendIdentity identity;
    int fd;                   /* for zero-copy reads; -1 if there is none */
    _Atomic uint64_t size;    /* exact, in bytes */
    uint32_t minimum_block;   /* 1, or the logical block size under CACHE_DIRECT */
    uint32_t preferred_block; /* power of two, >= 4096 */
    uint32_t memory_align;    /* buffers so aligned are not copied: 1, or CACHE_DIRECT's need */
    bool read_only;
    bool rotational;
    bool can_trim;
    bool can_fast_zero;
    bool submits_writes;   /* submit() may take a write */
    bool splice_ok;        /* fd may be spliced: page cache, no alignment needs */
    uint64_t prefetch_max; /* bytes that one prefetch may fetch; 0: it does nothing */
    CacheMode cache;
};

/* Opens path (regular file or block device) and locks it against other writers the way QEMU does
 * (lock.h). Blocks; never call it on the main thread. Errors: NOT_FOUND, LOCKED (names what is
 * locked and what to look for), INVALID (a directory, a character device...), IO. */
Backend *backend_open(const char *path, bool read_only, CacheMode cache, GError **error);
void backend_close(Backend *backend); /* takes NULL */

/* Whether both are the same inode or device, by whatever names they were opened. */
bool backend_same(const Backend *one, const Backend *other);
/* What backend_open() would find at path, without opening it; blocks. */
bool backend_identify(const char *path, BackendIdentity *ret_identity, GError **error);
bool backend_identity_equal(const BackendIdentity *one, const BackendIdentity *other);

#endif
