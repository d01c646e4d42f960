/* One fdatasync for all who wait for one: a sync serves everybody who asked before it began.
 *
 * A failure is latched: the kernel reports lost pages once, and may have dropped them, so no later
 * sync can be believed. It may have told a write that syncs itself, of the same file: so a sync
 * that ended well waits for those that were under way, and asks whether one of them failed. Any
 * thread. */
#ifndef STORAGE_SYNC_GROUP_H
#define STORAGE_SYNC_GROUP_H

#include "storage/engine.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* One who asks for a sync and does not wait. Embedded in its request. */
typedef struct SyncWaiter SyncWaiter;
struct SyncWaiter {
    /* Runs once, on a thread of the engine; must not block. The group does not touch the waiter
     * again; it may itself be gone once nobody waits. */
    void (*done)(SyncWaiter *waiter, int result);
    SyncWaiter *next; /* the group's */
};

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    SyncWaiter *waiters, **last; /* whom no sync serves yet */
    bool serving;                /* the job is on its way, or runs: it syncs for them */
    EngineJob job;
    Engine *engine;
    int fd;
    uint64_t begun, done; /* syncs */
    unsigned writes[2];   /* that sync themselves, and are under way; of each turn */
    unsigned turn;        /* of those that begin now */
    unsigned callers;     /* that are inside: what a test can wait for */
    int result;           /* of the last one that is done */
    _Atomic bool failed;
} SyncGroup;

void sync_group_init(SyncGroup *group);
void sync_group_destroy(SyncGroup *group);

/* 0, or a negative errno; -EIO at once when a sync has failed before. */
int sync_group_sync(SyncGroup *group, int fd);
/* The same, answered later: at most one thread of the engine is taken for all who ask so. */
void sync_group_submit(SyncGroup *group, int fd, Engine *engine, const void *owner,
                       SyncWaiter *waiter);
/* A sync has failed elsewhere: */
void sync_group_fail(SyncGroup *group);
/* in a write that syncs itself, say, which goes between these two. What begin answers is for end.
 */
unsigned sync_group_begin_write(SyncGroup *group);
void sync_group_end_write(SyncGroup *group, unsigned turn);
/* -EIO once one has failed. */
int sync_group_check(SyncGroup *group);

#endif
