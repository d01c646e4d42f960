/* What the file and the block device backend share: bytes behind a descriptor.
 *
 * Internal to the backends. Functions answer 0 or a negative errno and may be called from any
 * thread once fd_backend_init() has returned. */
#ifndef STORAGE_FD_BACKEND_H
#define STORAGE_FD_BACKEND_H

#include "storage/backend.h"
#include "storage/data_runs.h"
#include "storage/inline_gate.h"
#include "storage/range_lock.h"
#include <stdatomic.h>

typedef struct {
    Backend base; /* first: a Backend * is an FdBackend * */
    int tail_fd;  /* CACHE_DIRECT: the same file through the page cache, for a last partial block;
                     -1 where there can be none */
    RangeLock ranges;       /* CACHE_DIRECT: who writes where */
    SyncGroup syncs;        /* of fd */
    DataRuns data;          /* of a file: what lseek has told */
    InlineGate gate;        /* of I/O that cannot be asked whether it would wait */
    bool is_prompt;         /* of a file: filesystem_is_prompt() */
    bool finds_room_late;   /* of a file: filesystem_finds_room_late() */
    _Atomic bool no_dsync;  /* the file system has no RWF_DSYNC */
    _Atomic bool no_nowait; /* ... no RWF_NOWAIT for buffered reads */
} FdBackend;

void fd_backend_init(FdBackend *backend, const BackendOps *ops, const char *path, int fd,
                     bool read_only, CacheMode cache);
void fd_backend_close(Backend *base);

int fd_backend_pread(Backend *base, void *buffer, size_t length, uint64_t offset, unsigned flags);
int fd_backend_pwrite(Backend *base, const void *buffer, size_t length, uint64_t offset,
                      unsigned flags);
int fd_backend_flush(Backend *base);
bool fd_backend_submit(Backend *base, EngineLane *lane, BackendIo *io, bool write, void *buffer,
                       size_t length, uint64_t offset, unsigned flags);
bool fd_backend_submit_flush(Backend *base, Engine *engine, BackendIo *io);
int fd_backend_prefetch(Backend *base, uint64_t offset, uint64_t length);

/* Writes zeroes, with IO_FUA if wanted. */
int fd_backend_write_zeroes(FdBackend *backend, uint64_t offset, uint64_t length, unsigned flags);
/* -EIO once a sync has failed: what has to be asked before a FUA operation changes anything. */
int fd_backend_check_sync(FdBackend *backend);

/* Moves everything or fails, retrying what was cut short; IO_FUA makes it durable, and latches a
 * sync that failed. */
int fd_backend_write_fd(FdBackend *backend, int fd, const void *buffer, size_t length,
                        uint64_t offset, unsigned flags);

/* direct.c: CACHE_DIRECT */
int direct_pread(FdBackend *backend, void *buffer, size_t length, uint64_t offset);
int direct_pwrite(FdBackend *backend, const void *buffer, size_t length, uint64_t offset,
                  unsigned flags);
/* Whether the transfer can go to the kernel as it is. */
bool direct_is_plain(const FdBackend *backend, const void *buffer, size_t length, uint64_t offset);
/* Under CACHE_DIRECT, holds off read-modify-write cycles around a change made by other means. */
void direct_hold(FdBackend *backend, RangeHold *hold, uint64_t offset, uint64_t length);
/* The same for a plain write; false where it would have to wait. */
bool direct_try_hold(FdBackend *backend, RangeHold *hold, uint64_t offset, uint64_t length);
void direct_release(FdBackend *backend, RangeHold *hold);

/* file.c, block.c: given an open descriptor that suits the mode. They own fd when they succeed. */
Backend *file_backend_new(const char *path, int fd, bool read_only, CacheMode cache,
                          GError **error);
Backend *block_backend_new(const char *path, int fd, bool read_only, CacheMode cache,
                           GError **error);

#endif
