/* Calls on a disk that finish later, without a thread that waits for them: what disk_pread and
 * disk_pwrite do, on an engine that has io_uring; and what disk_flush does, on any. */
#ifndef STORAGE_DISK_ASYNC_H
#define STORAGE_DISK_ASYNC_H

#include "storage/disk.h"

/* Embedded in the caller's request. */
typedef struct DiskIo DiskIo;
struct DiskIo {
    /* Runs once, on the lane's thread or on one of the engine; must not block. result: 0 or a
     * negative errno. The disk does not touch io any more. */
    void (*done)(DiskIo *io, int result);

    /* the disk's */
    Disk *disk;
    uint64_t offset, length;
    BackendIo backend_io;
};

/* False, and nothing was done: this transfer does not go this way (a write that would have to
 * wait, an unaligned one, FUA, an engine of threads alone...); let a job do it. The buffer stays
 * until done has run. */
bool disk_submit_read(Disk *disk, EngineLane *lane, DiskIo *io, void *buffer, size_t length,
                      uint64_t offset);
bool disk_submit_write(Disk *disk, EngineLane *lane, DiskIo *io, const void *buffer, size_t length,
                       uint64_t offset, unsigned flags);
bool disk_submit_flush(Disk *disk, Engine *engine, DiskIo *io);

#endif
