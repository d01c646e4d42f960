#include "storage/disk_async.h"
#include "storage/disk_private.h"

static DiskIo *disk_io_of(BackendIo *backend_io)
{
    return (DiskIo *)(gpointer)((char *)backend_io - offsetof(DiskIo, backend_io));
}

static void plain_done(BackendIo *backend_io, int result)
{
    DiskIo *io = disk_io_of(backend_io);

    io->done(io, result);
}

static void write_done(BackendIo *backend_io, int result)
{
    DiskIo *io = disk_io_of(backend_io);

    extent_cache_changed(&io->disk->extents, io->offset, io->length);
    disk_write_end(io->disk);
    io->done(io, result);
}

bool disk_submit_read(Disk *disk, EngineLane *lane, DiskIo *io, void *buffer, size_t length,
                      uint64_t offset)
{
    Backend *backend = disk->backend;

    io->backend_io.done = plain_done;
    return backend->ops->submit(backend, lane, &io->backend_io, false, buffer, length, offset, 0);
}

bool disk_submit_write(Disk *disk, EngineLane *lane, DiskIo *io, const void *buffer, size_t length,
                       uint64_t offset, unsigned flags)
{
    Backend *backend = disk->backend;

    if (!backend->submits_writes || length == 0 || !engine_lane_can_io(lane) ||
        disk_write_begin(disk, offset, length, IO_NOWAIT) < 0) {
        return false;
    }
    io->disk = disk;
    io->offset = offset;
    io->length = length;
    io->backend_io.done = write_done;
    if (!backend->ops->submit(backend, lane, &io->backend_io, true, (void *)buffer, length, offset,
                              flags)) {
        disk_write_end(disk);
        return false;
    }
    return true;
}

bool disk_submit_flush(Disk *disk, Engine *engine, DiskIo *io)
{
    io->backend_io.done = plain_done;
    return disk->backend->ops->submit_flush(disk->backend, engine, &io->backend_io);
}
