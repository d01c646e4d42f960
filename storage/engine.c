#include "storage/engine.h"
#include "storage/ring.h"
#include "storage/worker_pool.h"
#include <errno.h>
#include <time.h>
#include <unistd.h>

struct Engine {
    WorkerPool *pool;
    bool has_rings; /* else: threads alone */
};

/* What the ring left of a transfer: rare, and done here and now. A job of it could wait for jobs
 * that wait until this transfer is done. */
static void finish_transfer(EngineIo *io)
{
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
static bool is_of_the_way(int result)
{
    return result == -EAGAIN || result == -EINTR || result == -ECANCELED || result == -EOPNOTSUPP ||
           result == -EINVAL;
}

static void completed(gpointer data, EngineIo *io, int moved)
{
    if (moved < 0 && !is_of_the_way(moved)) {
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
    finish_transfer(io);
}

static bool kernel_has_rings(void)
{
    Ring *ring = ring_new(completed, NULL);
    bool has = ring != NULL;

    ring_free(ring);
    return has;
}

Engine *engine_new(unsigned max_threads, EngineKind kind)
{
    Engine *engine = g_new0(Engine, 1);

    engine->pool = worker_pool_new(max_threads);
    if (engine->pool == NULL) {
        g_free(engine);
        return NULL;
    }
    engine->has_rings = kind != ENGINE_THREADS && kernel_has_rings();
    return engine;
}

void engine_free(Engine *engine)
{
    if (engine == NULL) {
        return;
    }
    worker_pool_free(engine->pool);
    g_free(engine);
}

const char *engine_name(const Engine *engine)
{
    return engine->has_rings ? "io_uring" : "threads";
}

void engine_submit(Engine *engine, EngineJob *job)
{
    worker_pool_submit(engine->pool, job);
}

void engine_catch_up(Engine *engine)
{
    worker_pool_catch_up(engine->pool);
}

void engine_lane_init(EngineLane *lane, Engine *engine)
{
    *lane = (EngineLane){.engine = engine, .refused = !engine->has_rings};
}

void engine_lane_clear(EngineLane *lane)
{
    ring_free(g_steal_pointer(&lane->ring));
    lane->refused = !lane->engine->has_rings; /* what was refused may be given later */
}

bool engine_lane_is_busy(const EngineLane *lane)
{
    return lane->ring != NULL && ring_in_flight(lane->ring) > 0;
}

bool engine_lane_can_io(EngineLane *lane)
{
    if (lane->ring == NULL && !lane->refused) {
        lane->ring = ring_new(completed, lane->engine);
        lane->refused = lane->ring == NULL;
    }
    return lane->ring != NULL && ring_has_room(lane->ring);
}

void engine_submit_io(EngineLane *lane, EngineIo *io)
{
    ring_submit(lane->ring, io);
}

void engine_lane_push(EngineLane *lane)
{
    if (lane->ring != NULL) {
        ring_push(lane->ring);
    }
}

void engine_lane_reap(EngineLane *lane)
{
    if (engine_lane_is_busy(lane)) {
        ring_poll(lane->ring, NULL, 0, 0);
    }
}

void engine_lane_poll(EngineLane *lane, struct pollfd *fds, unsigned count, gint64 timeout)
{
    struct timespec time = {timeout / G_USEC_PER_SEC, timeout % G_USEC_PER_SEC * 1000};

    if (engine_lane_is_busy(lane)) {
        ring_poll(lane->ring, fds, count, timeout);
    } else {
        ppoll(fds, count, timeout < 0 ? NULL : &time, NULL);
    }
}
