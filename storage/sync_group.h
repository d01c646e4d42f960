/* One fdatasync for all who wait for one: a sync serves everybody who asked before it began.
 *
 * A failure is latched: the kernel reports lost pages once, and may have dropped them, so no later
 * sync can be believed. Any thread. */
#ifndef STORAGE_SYNC_GROUP_H
#define STORAGE_SYNC_GROUP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    uint64_t begun, done; /* syncs */
    unsigned callers;     /* that are inside: what a test can wait for */
    int result;           /* of the last one that is done */
    _Atomic bool failed;
} SyncGroup;

void sync_group_init(SyncGroup *group);
void sync_group_destroy(SyncGroup *group);

/* 0, or a negative errno; -EIO at once when a sync has failed before. */
int sync_group_sync(SyncGroup *group, int fd);
/* A sync has failed elsewhere. */
void sync_group_fail(SyncGroup *group);
/* -EIO once one has failed. */
int sync_group_check(SyncGroup *group);

#endif
