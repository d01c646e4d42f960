/* The I/O engine: runs what would block, so that requests of one connection overlap.
 *
 * A job is a function that may block on a disk (never on a socket). Jobs run in any order on a
 * bounded number of threads; when it has run, its `done` ran too, on the same thread. The
 * submitter owns the Job's memory (embed it in the request). */
#ifndef STORAGE_ENGINE_H
#define STORAGE_ENGINE_H

#include <glib.h>

typedef struct Engine Engine;
typedef struct EngineJob EngineJob;
struct EngineJob {
    void (*run)(EngineJob *job); /* after it returns the engine does not touch the job again */
    EngineJob *next;             /* the engine's */
};

/* max_threads > 0: threads are started as needed and go away when idle for a few seconds. */
Engine *engine_new(unsigned max_threads);
void engine_free(Engine *engine); /* waits for all jobs */
void engine_submit(Engine *engine, EngineJob *job);
const char *engine_name(const Engine *engine); /* "threads", "io_uring": daemon.info */

#endif
