/* A request that is being done elsewhere: on the I/O engine, or waiting for the disk to admit it.
 *
 * Made and freed by the connection's thread. Between request_submit and its arrival in the queue
 * of the done ones it belongs to the engine, or to the connection's lane there; a worker never
 * touches the socket. */
#ifndef NBD_REQUEST_H
#define NBD_REQUEST_H

#include "daemon/core/client.h"
#include "daemon/nbd/handshake.h"
#include "daemon/nbd/pool.h"
#include "storage/bitmap.h"
#include "storage/disk_async.h"
#include "storage/engine.h"
#include <pthread.h>

/* How far a connection is told to end (ClientStop, and not at all). */
enum { NBD_STOP_NO, NBD_STOP_DRAIN, NBD_STOP_HARD };

/* How a READ is answered: runs of data and holes. At most a few, the last takes the rest. */
#define READ_RUNS 8
typedef struct {
    uint32_t length;
    bool hole;
} ReadRun;
typedef struct {
    unsigned count;
    ReadRun runs[READ_RUNS];
} ReadPlan;

/* One chunk of a BLOCK_STATUS reply: encoded, but for the extents of a bitmap. Of those there may
 * be many, and what they are made from takes a quarter of the memory: they are encoded as they
 * leave. */
typedef struct {
    size_t count; /* extents; the last ends at a change, too, or at the end of the walk */
    const uint32_t *changes;
    size_t change_count;
    BitmapWalk walk; /* has ended */
} StatusRuns;
typedef struct StatusChunk StatusChunk;
struct StatusChunk {
    StatusChunk *next;
    size_t size;     /* of the block this has for itself; 0: it lies in the request's own */
    StatusRuns runs; /* come after the bytes; count 0: there are none */
    size_t length;   /* of bytes */
    uint8_t bytes[];
};

/* Requests that are done, until the connection's thread has answered them. */
typedef struct Request Request;
typedef struct {
    pthread_mutex_t lock;
    Request *first, **last;
    bool sleeping; /* the thread waits: wake it */
    int wake_fd;
    pthread_t owner;          /* the connection's thread: */
    Request *own, **own_last; /* what it has put there itself */
} DoneQueue;

void done_queue_init(DoneQueue *queue, int wake_fd);
void done_queue_clear(DoneQueue *queue);
/* All of them; or NULL, and then sleep says that the thread is about to wait on
 * wake_fd and wants to be woken. */
Request *done_queue_take(DoneQueue *queue, bool sleep);
void done_queue_push(DoneQueue *queue, Request *request);

struct Request {
    EngineJob job;
    DiskWaiter waiter;
    DiskIo io;
    Request *next;
    NbdRequest wire;
    OpKind kind;
    gint64 started; /* g_get_monotonic_time() */

    /* What it is done with; all outlive it. */
    const NbdSession *session;
    Engine *engine;
    EngineLane *lane;
    PoolAccount *account;
    DoneQueue *queue;
    const _Atomic int *stop; /* NBD_STOP_*: HARD ends what takes long */

    /* WRITE: the payload; READ: the data, each byte at its place; BLOCK_STATUS: STATUS_LEAST bytes
     * for each context that is wanted, so that there is an answer however little the pool gives. */
    void *block;
    size_t block_size;
    uint64_t written; /* WRITE: bytes at its beginning that are on the disk already */
    ReadPlan plan;
    uint64_t status_length; /* BLOCK_STATUS: the effect length */
    uint32_t *status_ids;   /* the contexts wanted; NULL: all */
    size_t status_id_count;

    int result;         /* 0 or a negative errno */
    uint64_t failed_at; /* of a READ */
    StatusChunk *chunks;
};

/* Does it here; may block on the disk. */
void request_run(Request *request);
/* The same, unless the disk makes it wait first: then false, and it is as if submitted. */
bool request_run_if_admitted(Request *request);
/* Lets it be done: when the disk admits it, on the engine. Then it is in the queue. */
void request_submit(Request *request);
void request_free(Request *request);

#define STATUS_LEAST 512u

/* BLOCK_STATUS: status.c. */
void request_run_status(Request *request);

/* Room for `bytes` behind a chunk's fields, in a block of its own if the pool gives one, and else
 * in the request's, where `place` is the chunk's among those that are wanted: *ret_room is how many
 * there are really, STATUS_LEAST less the fields at least. */
StatusChunk *status_chunk(Request *request, size_t place, size_t bytes, size_t *ret_room);
/* A bitmap where nothing has to be rounded: status_bitmap.c. NULL, and request->result is set. */
StatusChunk *status_of_bitmap(Request *request, uint32_t id, size_t place, Bitmap *bitmap,
                              size_t max, bool done);

#endif
