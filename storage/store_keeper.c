/* The thread of store_keeper.h. */
#include "storage/store_keeper.h"
#include "storage/disk_private.h"
#include "storage/fault.h"
#include <pthread.h>

struct StoreKeeper {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    GQueue disks; /* of Disk references, each at most once */
    bool stopping;
};

static void *keep(void *data)
{
    StoreKeeper *keeper = data;
    pthread_mutex_lock(&keeper->mutex);
    for (;;) {
        Disk *disk = g_queue_peek_head(&keeper->disks);
        if (disk == NULL && keeper->stopping)
            break;
        if (disk == NULL) {
            pthread_cond_wait(&keeper->wake, &keeper->mutex);
            continue;
        }
        bool stopping = keeper->stopping;
        pthread_mutex_unlock(&keeper->mutex);
        if (!stopping)
            disk_mark(disk);
        pthread_mutex_lock(&keeper->mutex);
        g_queue_pop_head(&keeper->disks);
        pthread_mutex_unlock(&keeper->mutex);
        disk_unref(disk);
        pthread_mutex_lock(&keeper->mutex);
    }
    pthread_mutex_unlock(&keeper->mutex);
    return NULL;
}

StoreKeeper *store_keeper_new(void)
{
    StoreKeeper *keeper = g_new0(StoreKeeper, 1);
    g_queue_init(&keeper->disks);
    pthread_mutex_init(&keeper->mutex, NULL);
    pthread_cond_init(&keeper->wake, NULL);
    if (pthread_create(&keeper->thread, NULL, keep, keeper) == 0)
        return keeper;
    g_free(keeper);
    return NULL;
}

void store_keeper_free(StoreKeeper *keeper)
{
    if (keeper == NULL)
        return;
    pthread_mutex_lock(&keeper->mutex);
    keeper->stopping = true;
    pthread_cond_signal(&keeper->wake);
    pthread_mutex_unlock(&keeper->mutex);
    pthread_join(keeper->thread, NULL);
    pthread_mutex_destroy(&keeper->mutex);
    pthread_cond_destroy(&keeper->wake);
    g_free(keeper);
}

void store_keeper_mark(StoreKeeper *keeper, Disk *disk)
{
    pthread_mutex_lock(&keeper->mutex);
    bool queued = g_queue_find(&keeper->disks, disk) != NULL;
    if (!queued) {
        g_queue_push_tail(&keeper->disks, disk);
        pthread_cond_signal(&keeper->wake);
    }
    /* Here it is not the last, since who is queued is held by the keeper. Were it, the store thread
     * would close the disk, and wait for itself. */
    if (queued && !fault("store-closes-a-disk"))
        disk_unref(disk);
    pthread_mutex_unlock(&keeper->mutex);
    if (queued && fault("store-closes-a-disk"))
        disk_unref(disk);
}
