/* The I/O engine: runs what would block, so that requests of one connection overlap.
 *
 * A job is a function that may block on a disk (never on a socket); jobs run in any order on a
 * bounded number of threads, shared fairly among their owners (fair_queue.h: how far). A plain
 * transfer between memory and a file needs no thread of its own where the kernel has io_uring. The
 * submitter owns the memory of both (embed them in the request). Any thread may submit jobs;
 * transfers go by a lane of the thread itself. */
#ifndef STORAGE_ENGINE_H
#define STORAGE_ENGINE_H

#include <glib.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Engine Engine;

typedef enum {
    ENGINE_AUTO,    /* io_uring where the kernel allows it, and threads */
    ENGINE_THREADS, /* threads alone: a preloaded library sees every call */
} EngineKind;

/* max_threads > 0: threads are started as needed and go away when idle for a few seconds, but for
 * one, which is there as long as the engine. NULL, and errno: not even that can be started. */
Engine *engine_new(unsigned max_threads, EngineKind kind);
void engine_free(Engine *engine);              /* waits for all that was submitted; takes NULL */
const char *engine_name(const Engine *engine); /* "threads", "io_uring": daemon.info */

typedef struct EngineJob EngineJob;
struct EngineJob {
    void (*run)(EngineJob *job); /* once it runs the engine does not touch the job again */
    const void *owner;           /* whose it is: any pointer, of a disk say; NULL: nobody's */
    EngineJob *next;             /* the engine's */
};

/* Never runs the job itself: it may wait for the caller. */
void engine_submit(Engine *engine, EngineJob *job);
/* To be called every few seconds: starts the threads that could not be started when jobs came. The
 * next job does as well; but there may be none, while those that wait stand behind one that hangs.
 */
void engine_catch_up(Engine *engine);

typedef struct EngineIo EngineIo;
struct EngineIo {
    /* Runs once, on the lane's thread; must not block. 0: all was moved; else a negative errno,
     * -EIO for a read that met the end of the file. The engine does not touch io again. */
    void (*done)(EngineIo *io, int result);
    int fd;
    bool write;
    void *buffer; /* of a write: only read */
    size_t length;
    uint64_t offset;
};

/* A thread's own way to the kernel for such transfers. It waits here for what it has submitted, so
 * nobody else has to be woken. All calls are that thread's; kernel resources are taken when they
 * are first needed. */
typedef struct {
    Engine *engine;
    struct Ring *ring; /* NULL: not needed yet */
    bool refused;      /* the kernel would not give one */
} EngineLane;

void engine_lane_init(EngineLane *lane, Engine *engine);
/* Waits for what is in flight; it may be used again after it. */
void engine_lane_clear(EngineLane *lane);
/* Whether anything is in flight. */
bool engine_lane_is_busy(const EngineLane *lane);
/* Whether it takes one more transfer now. If not, it has to be done by a job. */
bool engine_lane_can_io(EngineLane *lane);
/* At the next engine_lane_push or engine_lane_poll, or earlier, the kernel has it. */
void engine_submit_io(EngineLane *lane, EngineIo *io);
void engine_lane_push(EngineLane *lane);
/* Calls `done` of what is done, without waiting. */
void engine_lane_reap(EngineLane *lane);
/* poll(2) of at most two descriptors that transfers end, too, and that calls their `done`. In
 * microseconds, negative: for ever. ring.h: what is asked of fds. */
void engine_lane_poll(EngineLane *lane, struct pollfd *fds, unsigned count, gint64 timeout);

#endif
