#include "storage/sync_group.h"
#include "storage/fault.h"
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

void sync_group_init(SyncGroup *group)
{
    *group = (SyncGroup){.begun = 0};
    pthread_mutex_init(&group->lock, NULL);
    pthread_cond_init(&group->ended, NULL);
    group->last = &group->waiters;
}

void sync_group_destroy(SyncGroup *group)
{
    pthread_cond_destroy(&group->ended);
    pthread_mutex_destroy(&group->lock);
}

int sync_group_check(SyncGroup *group)
{
    return atomic_load(&group->failed) ? -EIO : 0;
}

void sync_group_fail(SyncGroup *group)
{
    if (!fault("failed-sync-forgotten")) {
        atomic_store(&group->failed, true);
    }
}

static int sync_once(int fd)
{
    int result;

    /* EINTR has synced nothing and dropped nothing: the one answer that may be asked again. */
    do {
        result = fdatasync(fd) == 0 ? 0 : -errno;
    } while (result == -EINTR);
    return result;
}

unsigned sync_group_begin_write(SyncGroup *group)
{
    unsigned turn;

    pthread_mutex_lock(&group->lock);
    turn = group->turn;
    group->writes[turn]++;
    pthread_mutex_unlock(&group->lock);
    return turn;
}

void sync_group_end_write(SyncGroup *group, unsigned turn)
{
    pthread_mutex_lock(&group->lock);
    if (--group->writes[turn] == 0) {
        pthread_cond_broadcast(&group->ended);
    }
    pthread_mutex_unlock(&group->lock);
}

/* Under lock, which is let go meanwhile; one at a time. Who begins from here on was told of nothing
 * that the sync before should have been. */
static int await_writes(SyncGroup *group)
{
    unsigned turn = group->turn;

    group->turn = 1 - turn;
    while (group->writes[turn] > 0) {
        pthread_cond_wait(&group->ended, &group->lock);
    }
    return sync_group_check(group);
}

/* Under lock, which is let go meanwhile. */
static void lead(SyncGroup *group, int fd)
{
    int result = sync_group_check(group);

    group->begun++;
    pthread_mutex_unlock(&group->lock);
    if (result == 0) {
        result = sync_once(fd);
    }
    pthread_mutex_lock(&group->lock);
    if (result == 0) {
        result = await_writes(group);
    }
    if (result < 0) {
        sync_group_fail(group);
    }
    group->result = result;
    group->done = group->begun;
    pthread_cond_broadcast(&group->ended);
}

/* Under lock, which is let go meanwhile: until a sync has ended that began from here on. */
static int await(SyncGroup *group, int fd)
{
    /* What runs already may have passed by our pages: only the next one counts. */
    uint64_t wanted = group->begun + 1;

    group->callers++;
    while (group->done < wanted) {
        if (group->begun == group->done) {
            lead(group, fd);
        } else {
            pthread_cond_wait(&group->ended, &group->lock);
        }
    }
    group->callers--;
    return group->result;
}

int sync_group_sync(SyncGroup *group, int fd)
{
    int result = sync_group_check(group);

    if (result < 0) {
        return result;
    }
    pthread_mutex_lock(&group->lock);
    result = await(group, fd);
    pthread_mutex_unlock(&group->lock);
    return result;
}

static void serve_waiters(EngineJob *job)
{
    SyncGroup *group = (SyncGroup *)(gpointer)((char *)job - offsetof(SyncGroup, job));
    SyncWaiter *waiter, *next;
    bool more;
    int result;

    pthread_mutex_lock(&group->lock);
    waiter = group->waiters;
    group->waiters = NULL;
    group->last = &group->waiters;
    result = await(group, group->fd);
    more = group->serving = group->waiters != NULL;
    pthread_mutex_unlock(&group->lock);
    for (; waiter != NULL; waiter = next) {
        next = waiter->next;
        waiter->done(waiter, result);
    }
    /* Those who came meanwhile are here still, and so is the group. They wait for another turn, so
     * that other jobs have theirs. */
    if (more) {
        engine_submit(group->engine, job);
    }
}

void sync_group_submit(SyncGroup *group, int fd, Engine *engine, const void *owner,
                       SyncWaiter *waiter)
{
    bool start;

    waiter->next = NULL;
    pthread_mutex_lock(&group->lock);
    *group->last = waiter;
    group->last = &waiter->next;
    start = !group->serving;
    if (start) {
        group->serving = true;
        group->fd = fd;
        group->engine = engine;
        group->job = (EngineJob){.run = serve_waiters, .owner = owner};
    }
    pthread_mutex_unlock(&group->lock);
    if (start) {
        engine_submit(engine, &group->job);
    }
}
