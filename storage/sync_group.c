#include "storage/sync_group.h"
#include "storage/fault.h"
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

void sync_group_init(SyncGroup *group)
{
    *group = (SyncGroup){.begun = 0};
    pthread_mutex_init(&group->lock, NULL);
    pthread_cond_init(&group->ended, NULL);
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
    if (result < 0) {
        sync_group_fail(group);
    }
    group->result = result;
    group->done = group->begun;
    pthread_cond_broadcast(&group->ended);
}

int sync_group_sync(SyncGroup *group, int fd)
{
    int result = sync_group_check(group);
    uint64_t wanted;

    if (result < 0) {
        return result;
    }
    pthread_mutex_lock(&group->lock);
    /* What runs already may have passed by our pages: only the next one counts. */
    wanted = group->begun + 1;
    group->callers++;
    while (group->done < wanted) {
        if (group->begun == group->done) {
            lead(group, fd);
        } else {
            pthread_cond_wait(&group->ended, &group->lock);
        }
    }
    group->callers--;
    result = group->result;
    pthread_mutex_unlock(&group->lock);
    return result;
}
