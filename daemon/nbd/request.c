#include "daemon/nbd/request.h"
#include <errno.h>
#include <stddef.h>
#include <sys/eventfd.h>

/* Zeroing and trimming go in steps, so that a connection that is to end does not have to wait for
 * terabytes. Steps that take no time (a hole of any size) become longer. */
#define STEP_BYTES (UINT64_C(1) << 30)
#define STEP_TIME  (G_USEC_PER_SEC / 10)

/* --- the queue of done requests --- */

void done_queue_init(DoneQueue *queue, int wake_fd)
{
    *queue = (DoneQueue){.wake_fd = wake_fd, .owner = pthread_self()};
    queue->last = &queue->first;
    queue->own_last = &queue->own;
    pthread_mutex_init(&queue->lock, NULL);
}

void done_queue_clear(DoneQueue *queue)
{
    pthread_mutex_destroy(&queue->lock);
}

Request *done_queue_take(DoneQueue *queue, bool sleep)
{
    pthread_mutex_lock(&queue->lock);
    *queue->own_last = queue->first;
    Request *first = queue->own;
    queue->first = NULL;
    queue->last = &queue->first;
    queue->sleeping = first == NULL && sleep;
    pthread_mutex_unlock(&queue->lock);
    queue->own = NULL;
    queue->own_last = &queue->own;
    return first;
}

static void append(Request ***last, Request *request)
{
    request->next = NULL;
    **last = request;
    *last = &request->next;
}

/* The connection may be gone as soon as the lock is released: nothing is touched after it. */
void done_queue_push(DoneQueue *queue, Request *request)
{
    if (pthread_equal(pthread_self(), queue->owner)) {
        append(&queue->own_last, request);
        return;
    }
    pthread_mutex_lock(&queue->lock);
    append(&queue->last, request);
    if (queue->sleeping) {
        queue->sleeping = false;
        eventfd_write(queue->wake_fd, 1);
    }
    pthread_mutex_unlock(&queue->lock);
}

/* --- doing it --- */

static int run_read(Request *request)
{
    uint64_t offset = request->wire.offset;
    uint8_t *data = request->block;
    for (unsigned i = 0; i < request->plan.count; i++) {
        const ReadRun *run = &request->plan.runs[i];
        if (!run->hole) {
            int result = disk_pread(request->session->view.disk, data, run->length, offset, 0);
            if (result < 0) {
                request->failed_at = offset;
                return result;
            }
        }
        offset += run->length;
        data += run->length;
    }
    return 0;
}

static unsigned io_flags(const NbdRequest *wire)
{
    unsigned flags = 0;
    if (wire->flags & NBD_CMD_FLAG_FUA)
        flags |= IO_FUA;
    if (wire->type == NBD_CMD_WRITE_ZEROES && !(wire->flags & NBD_CMD_FLAG_NO_HOLE))
        flags |= IO_MAY_HOLE;
    if (wire->flags & NBD_CMD_FLAG_FAST_ZERO)
        flags |= IO_FAST;
    return flags;
}

static int run_step(Request *request, uint64_t offset, uint64_t length, unsigned flags)
{
    Disk *disk = request->session->view.disk;
    if (request->kind == OP_TRIM)
        return disk_trim(disk, offset, length, flags);
    return disk_zero(disk, offset, length, flags);
}

static int run_zero_or_trim(Request *request)
{
    const NbdRequest *wire = &request->wire;
    unsigned flags = io_flags(wire);
    /* Fast or not at all: a refusal must not come after a part of it was done. */
    if (wire->length <= STEP_BYTES || (flags & IO_FAST))
        return run_step(request, wire->offset, wire->length, flags);
    uint64_t most = STEP_BYTES;
    for (uint64_t done = 0; done < wire->length;) {
        uint64_t step = MIN(most, wire->length - done);
        gint64 begin = g_get_monotonic_time();
        if (atomic_load_explicit(request->stop, memory_order_relaxed) == NBD_STOP_HARD)
            return -ECANCELED;
        int result = run_step(request, wire->offset + done, step, flags & ~IO_FUA);
        if (result < 0)
            return result;
        done += step;
        if (most < UINT64_MAX / 2 && g_get_monotonic_time() - begin < STEP_TIME)
            most *= 2;
    }
    return flags & IO_FUA ? disk_flush(request->session->view.disk) : 0;
}

void request_run(Request *request)
{
    Disk *disk = request->session->view.disk;
    const NbdRequest *wire = &request->wire;
    switch (request->kind) {
    case OP_READ:
        request->result = run_read(request);
        break;
    case OP_WRITE:
        request->result = disk_pwrite(disk, (uint8_t *)request->block + request->written,
                                      wire->length - request->written,
                                      wire->offset + request->written, io_flags(wire));
        break;
    case OP_ZERO:
    case OP_TRIM:
        request->result = run_zero_or_trim(request);
        break;
    case OP_FLUSH:
        request->result = disk_flush(disk);
        break;
    case OP_CACHE:
        request->result = disk_prefetch(disk, wire->offset, wire->length);
        break;
    case OP_STATUS:
        request_run_status(request);
        break;
    case OP_COUNT:
        g_assert_not_reached();
    }
    /* "NBD_CMD_TRIM": a hint. A backend that cannot has done all it can. */
    if (request->kind == OP_TRIM && request->result == -ENOTSUP)
        request->result = 0;
}

static void run_job(EngineJob *job)
{
    Request *request = (Request *)(gpointer)((uint8_t *)job - offsetof(Request, job));
    request_run(request);
    done_queue_push(request->queue, request);
}

static void transferred(DiskIo *io, int result)
{
    Request *request = (Request *)(gpointer)((uint8_t *)io - offsetof(Request, io));
    request->result = result;
    done_queue_push(request->queue, request);
}

/* A plain transfer or a flush needs no thread that waits for it, if the disk and the engine see to
 * that. */
static bool submit_later(Request *request)
{
    Disk *disk = request->session->view.disk;
    const NbdRequest *wire = &request->wire;
    request->io.done = transferred;
    if (request->kind == OP_FLUSH)
        return disk_submit_flush(disk, request->engine, &request->io);
    if (request->kind == OP_WRITE)
        return disk_submit_write(disk, request->lane, &request->io,
                                 (uint8_t *)request->block + request->written,
                                 (size_t)(wire->length - request->written),
                                 wire->offset + request->written, io_flags(wire));
    return request->kind == OP_READ && request->plan.count == 1 && !request->plan.runs[0].hole &&
           disk_submit_read(disk, request->lane, &request->io, request->block, (size_t)wire->length,
                            wire->offset);
}

static void admitted(DiskWaiter *waiter)
{
    Request *request = (Request *)(gpointer)((uint8_t *)waiter - offsetof(Request, waiter));
    engine_submit(request->engine, &request->job);
}

/* Waiting for the record of a write costs no thread: false, and the engine has it once the disk
 * admits it. */
static bool is_admitted(Request *request)
{
    const NbdRequest *wire = &request->wire;
    bool changes =
        request->kind == OP_WRITE || request->kind == OP_ZERO || request->kind == OP_TRIM;
    request->job.run = run_job;
    request->job.owner = disk_backend(request->session->view.disk);
    request->waiter.ready = admitted;
    return !changes ||
           disk_prepare_write(request->session->view.disk, wire->offset,
                              MIN(wire->length, STEP_BYTES), &request->waiter) != -EINPROGRESS;
}

bool request_run_if_admitted(Request *request)
{
    if (!is_admitted(request))
        return false;
    request_run(request);
    return true;
}

void request_submit(Request *request)
{
    if (!submit_later(request) && is_admitted(request))
        engine_submit(request->engine, &request->job);
}

void request_free(Request *request)
{
    while (request->chunks != NULL) {
        StatusChunk *chunk = request->chunks;
        request->chunks = chunk->next;
        if (chunk->size > 0)
            pool_give(request->account, chunk, chunk->size);
    }
    pool_give(request->account, request->block, request->block_size);
    g_free(request->status_ids);
    g_free(request);
}
