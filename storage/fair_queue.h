/* Which job a bounded number of threads runs next: every owner has a queue of its own, and those
 * that have jobs waiting take turns, so that one whose jobs hang leaves threads to the others.
 *
 * Which job will hang shows when it does, and none can be taken off its thread again. So a quarter
 * of the threads is kept for owners with nothing running, and of the others an owner may take one
 * more while it has less than twice as many as are free. Of 128 threads one owner gets 64 at most,
 * beside one that hangs 22, beside two 7, and one at least, at once, until 37 owners hang: then all
 * threads do, and everybody waits. Jobs of no owner (NULL) wait for a free thread alone.
 *
 * The caller locks. */
#ifndef STORAGE_FAIR_QUEUE_H
#define STORAGE_FAIR_QUEUE_H

#include "storage/engine.h"

typedef struct FairQueue FairQueue;

FairQueue *fair_queue_new(unsigned max_running);
void fair_queue_free(FairQueue *queue); /* forgets what waits */

void fair_queue_push(FairQueue *queue, EngineJob *job);
/* The job that is to run now, or NULL; it counts as running until fair_queue_ended. */
EngineJob *fair_queue_next(FairQueue *queue);
/* A job of this owner has ended: others may be let through by that, more than one even. */
void fair_queue_ended(FairQueue *queue, const void *owner);

#endif
