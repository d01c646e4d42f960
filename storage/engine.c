#include "storage/engine.h"
#include "storage/ring.h"
#include "storage/worker_pool.h"
#include <errno.h>
#include <unistd.h>

struct Engine {
    WorkerPool *pool;
    Ring *ring; /* NULL: threads alone */
};

/* What the ring left of a transfer, on a thread that may wait. */
static void finish_transfer(EngineJob *job)
{
    EngineIo *io = (EngineIo *)(gpointer)((char *)job - offsetof(EngineIo, rest));
    int result = 0;

    while (result == 0 && io->length > 0) {
        ssize_t moved = io->write ? pwrite(io->fd, io->buffer, io->length, (off_t)io->offset)
                                  : pread(io->fd, io->buffer, io->length, (off_t)io->offset);

        if (moved > 0) {
            io->buffer = (char *)io->buffer + moved;
            io->offset += (uint64_t)moved;
            io->length -= (size_t)moved;
        } else if (moved == 0) {
            result = -EIO;
        } else if (errno != EINTR) {
            result = -errno;
        }
    }
    io->done(io, result);
}

/* Errors that tell about the way and not about the file. */
static bool is_for_threads(int result)
{
    return result == -EAGAIN || result == -EINTR || result == -ECANCELED || result == -EOPNOTSUPP ||
           result == -EINVAL;
}

static void completed(gpointer data, EngineIo *io, int moved)
{
    Engine *engine = data;

    if (moved < 0 && !is_for_threads(moved)) {
        io->done(io, moved);
        return;
    }
    if (moved > 0) {
        io->buffer = (char *)io->buffer + moved;
        io->offset += (uint64_t)moved;
        io->length -= (size_t)moved;
    }
    if (io->length == 0) {
        io->done(io, 0);
        return;
    }
    /* A read that ends inside a sector has met the end of the file. Direct I/O may not even ask
     * for what is behind it. */
    if (!io->write && moved > 0 && moved % 512 != 0) {
        io->done(io, -EIO);
        return;
    }
    io->rest.run = finish_transfer;
    io->rest.owner = io->owner;
    worker_pool_submit(engine->pool, &io->rest);
}

Engine *engine_new(unsigned max_threads, EngineKind kind)
{
    Engine *engine = g_new0(Engine, 1);

    engine->pool = worker_pool_new(max_threads);
    engine->ring = kind == ENGINE_THREADS ? NULL : ring_new(completed, engine);
    return engine;
}

void engine_free(Engine *engine)
{
    if (engine == NULL) {
        return;
    }
    /* In this order: the ring may leave something to the threads. */
    ring_free(engine->ring);
    worker_pool_free(engine->pool);
    g_free(engine);
}

const char *engine_name(const Engine *engine)
{
    return engine->ring != NULL ? "io_uring" : "threads";
}

void engine_submit(Engine *engine, EngineJob *job)
{
    worker_pool_submit(engine->pool, job);
}

bool engine_can_io(const Engine *engine)
{
    return engine->ring != NULL;
}

void engine_submit_io(Engine *engine, EngineIo *io)
{
    io->submitted = false;
    ring_submit(engine->ring, io);
}
