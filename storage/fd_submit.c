/* Transfers that the engine can do without a thread: direct ones that are aligned, and reads
 * through the page cache. A buffered write would only move the wait into a thread of the kernel.
 * And flushes, of which all of a disk take one thread at a time. */
#include "storage/fault.h"
#include "storage/fd_backend.h"

static void read_done(EngineIo *engine_io, int result)
{
    BackendIo *io = (BackendIo *)(gpointer)((char *)engine_io - offsetof(BackendIo, engine_io));

    io->done(io, result);
}

static void direct_write_done(EngineIo *engine_io, int result)
{
    BackendIo *io = (BackendIo *)(gpointer)((char *)engine_io - offsetof(BackendIo, engine_io));

    direct_release((FdBackend *)io->backend, &io->hold);
    io->done(io, result);
}

static bool can_submit(FdBackend *backend, bool write, const void *buffer, size_t length,
                       uint64_t offset, unsigned flags)
{
    if (backend->base.cache == CACHE_DIRECT) {
        /* A FUA write whose sync fails has to be told from one whose write fails. */
        return direct_is_plain(backend, buffer, length, offset) && (flags & IO_FUA) == 0;
    }
    return !write && !atomic_load_explicit(&backend->no_nowait, memory_order_relaxed);
}

bool fd_backend_submit(Backend *base, EngineLane *lane, BackendIo *io, bool write, void *buffer,
                       size_t length, uint64_t offset, unsigned flags)
{
    FdBackend *backend = (FdBackend *)base;

    if (length == 0 || !can_submit(backend, write, buffer, length, offset, flags) ||
        !engine_lane_can_io(lane)) {
        return false;
    }
    if (write && !direct_try_hold(backend, &io->hold, offset, length)) {
        return false;
    }
    io->backend = base;
    io->engine_io.done = write ? direct_write_done : read_done;
    io->engine_io.fd = base->fd;
    io->engine_io.write = write;
    io->engine_io.buffer = buffer;
    io->engine_io.length = length;
    io->engine_io.offset = offset;
    engine_submit_io(lane, &io->engine_io);
    return true;
}

static void synced(SyncWaiter *waiter, int result)
{
    BackendIo *io = (BackendIo *)(gpointer)((char *)waiter - offsetof(BackendIo, sync));

    io->done(io, result);
}

bool fd_backend_submit_flush(Backend *base, Engine *engine, BackendIo *io)
{
    if (fault("flush-without-sync")) {
        return false;
    }
    io->sync.done = synced;
    sync_group_submit(&((FdBackend *)base)->syncs, base->fd, engine, base, &io->sync);
    return true;
}
