/* A bounded pool of threads for jobs that block: the engine's half that is always there. */
#ifndef STORAGE_WORKER_POOL_H
#define STORAGE_WORKER_POOL_H

#include "storage/engine.h"

typedef struct WorkerPool WorkerPool;

/* Starts the thread that stays. NULL, and errno: it cannot. */
WorkerPool *worker_pool_new(unsigned max_threads);
void worker_pool_free(WorkerPool *pool); /* waits for all jobs; takes NULL */
void worker_pool_submit(WorkerPool *pool, EngineJob *job);
void worker_pool_catch_up(WorkerPool *pool); /* engine_catch_up */

#endif
