/* A disk's life and its data path. */
#include "storage/disk_private.h"
#include "storage/store_track.h"
#include <errno.h>
#include <string.h>

/* --- life --- */

static gint by_name(gconstpointer a, gconstpointer b)
{
    const Bitmap *const *one = a, *const *other = b;
    return strcmp((*one)->name, (*other)->name);
}

static bool load(StoreTxn *txn, gpointer data, GError **error)
{
    Disk *disk = data;
    int64_t id;
    if (!store_find_disk(txn, disk->name, &id, error))
        return false;
    return id == 0 || store_load_bitmaps(txn, id, atomic_load(&disk->size), disk->bitmaps, error);
}

Disk *disk_open(Store *store, const char *name, const char *path, bool read_only, CacheMode cache,
                GError **error)
{
    /* The lock that comes with it must be ours before anything is recovered: writes of a process
     * that died may still be on their way to the file, and its lock lives as long as they do. */
    Backend *backend = backend_open(path, read_only, cache, error);
    if (backend == NULL)
        return NULL;
    Disk *disk = g_new0(Disk, 1);
    atomic_init(&disk->references, 1);
    disk->name = g_strdup(name);
    disk->backend = backend;
    disk->store = store;
    atomic_init(&disk->size, atomic_load(&backend->size));
    gate_init(&disk->gate, &disk->gate_state);
    pthread_mutex_init(&disk->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&disk->change_ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    disk->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)bitmap_unref);
    disk->track = track_new(disk);
    if (!store_transact(store, load, disk, error)) {
        disk_unref(disk);
        return NULL;
    }
    g_ptr_array_sort(disk->bitmaps, by_name);
    track_set_recorders(disk->track, NULL, 0);
    return disk;
}

Disk *disk_ref(Disk *disk)
{
    atomic_fetch_add(&disk->references, 1);
    return disk;
}

void disk_unref(Disk *disk)
{
    if (disk == NULL || atomic_fetch_sub(&disk->references, 1) > 1)
        return;
    track_free(disk->track);
    backend_close(disk->backend);
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        pthread_rwlock_wrlock(&bitmap->lock);
        bitmap->removed = true;
        pthread_rwlock_unlock(&bitmap->lock);
    }
    g_ptr_array_unref(disk->bitmaps);
    gate_clear(&disk->gate);
    pthread_mutex_destroy(&disk->lock);
    pthread_cond_destroy(&disk->change_ended);
    g_free(disk->name);
    g_free(disk);
}

static bool store_everything(StoreTxn *txn, gpointer data, GError **error)
{
    Disk *disk = data;
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        if (bitmap->bits && !store_put_bits(txn, bitmap->id, bitmap->bits, bitmap->stored, error))
            return false;
    }
    return true;
}

bool disk_close_clean(Disk *disk, GError **error)
{
    if (!disk_change_lock(disk, G_MAXINT64, error))
        return false;
    gate_close(&disk->gate, G_MAXINT64);
    disk->closed = true;
    disk_change_unlock(disk);
    int rc = disk->backend->read_only ? 0 : disk->backend->ops->flush(disk->backend);
    if (rc < 0) {
        storage_error_set_errno(error, -rc, "cannot sync disk %s", disk->name);
        return false;
    }
    return store_transact(disk->store, store_everything, disk, error);
}

bool disk_checkpoint(Disk *disk, GError **error)
{
    return true;
}

const char *disk_name(const Disk *disk)
{
    return disk->name;
}

const Backend *disk_backend(const Disk *disk)
{
    return disk->backend;
}

uint64_t disk_size(const Disk *disk)
{
    return atomic_load(&disk->size);
}

bool disk_refresh(Disk *disk, GError **error)
{
    uint64_t size;
    int rc = disk->backend->ops->refresh(disk->backend, &size);
    if (rc < 0) {
        storage_error_set_errno(error, -rc, "cannot look at the size of disk %s", disk->name);
        return false;
    }
    atomic_store(&disk->size, size);
    return true;
}

/* --- data path --- */

/* Records that [offset, +length) is about to change; 0: inside the gate, go ahead. */
static int write_begin(Disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    for (;;) {
        if (!gate_enter(&disk->gate)) {
            if (flags & IO_NOWAIT)
                return -EAGAIN;
            gate_wait(&disk->gate);
            continue;
        }
        if (track_admit(disk->track, offset, offset + length))
            return 0;
        gate_leave(&disk->gate);
    }
}

static void write_end(Disk *disk)
{
    gate_leave(&disk->gate);
}

int disk_pread(Disk *disk, void *buffer, size_t length, uint64_t offset, unsigned flags)
{
    return disk->backend->ops->pread(disk->backend, buffer, length, offset, flags);
}

int disk_pwrite(Disk *disk, const void *buffer, size_t length, uint64_t offset, unsigned flags)
{
    if (length == 0)
        return flags & IO_FUA ? disk_flush(disk) : 0;
    int rc = write_begin(disk, offset, length, flags);
    if (rc < 0)
        return rc;
    rc = disk->backend->ops->pwrite(disk->backend, buffer, length, offset, flags);
    write_end(disk);
    return rc;
}

int disk_zero(Disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    if (length == 0)
        return 0;
    int rc = write_begin(disk, offset, length, flags);
    if (rc < 0)
        return rc;
    rc = disk->backend->ops->zero(disk->backend, offset, length, flags);
    write_end(disk);
    return rc;
}

int disk_trim(Disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    if (length == 0)
        return 0;
    int rc = write_begin(disk, offset, length, flags);
    if (rc < 0)
        return rc;
    rc = disk->backend->ops->trim(disk->backend, offset, length, flags);
    write_end(disk);
    return rc;
}

int disk_flush(Disk *disk)
{
    return disk->backend->ops->flush(disk->backend);
}

int disk_extents(Disk *disk, uint64_t offset, uint64_t length, ExtentList *list)
{
    return disk->backend->ops->extents(disk->backend, offset, length, list);
}

int disk_prefetch(Disk *disk, uint64_t offset, uint64_t length)
{
    return disk->backend->ops->prefetch(disk->backend, offset, length);
}

int disk_prepare_write(Disk *disk, uint64_t offset, uint64_t length, DiskWaiter *waiter)
{
    for (;;) {
        if (gate_enter(&disk->gate)) {
            gate_leave(&disk->gate);
            return 0;
        }
        if (gate_notify(&disk->gate, waiter))
            return -EINPROGRESS;
    }
}

/* --- bitmaps --- */

Bitmap *disk_lookup_bitmap(Disk *disk, const char *name)
{
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        if (strcmp(bitmap->name, name) == 0)
            return bitmap;
    }
    return NULL;
}

Bitmap *disk_find_bitmap(Disk *disk, const char *name)
{
    pthread_mutex_lock(&disk->lock);
    Bitmap *bitmap = disk_lookup_bitmap(disk, name);
    if (bitmap)
        bitmap_ref(bitmap);
    pthread_mutex_unlock(&disk->lock);
    return bitmap;
}

GPtrArray *disk_list_bitmaps(Disk *disk)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)bitmap_unref);
    pthread_mutex_lock(&disk->lock);
    for (guint i = 0; i < disk->bitmaps->len; i++)
        g_ptr_array_add(list, bitmap_ref(disk->bitmaps->pdata[i]));
    pthread_mutex_unlock(&disk->lock);
    return list;
}

bool disk_change_lock(Disk *disk, gint64 deadline, GError **error)
{
    struct timespec until = {deadline / G_USEC_PER_SEC, deadline % G_USEC_PER_SEC * 1000};
    int rc = 0;
    pthread_mutex_lock(&disk->lock);
    while (disk->changing && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&disk->change_ended, &disk->lock, &until);
    bool ok = !disk->changing && !disk->closed;
    if (ok)
        disk->changing = true;
    else if (disk->closed)
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE, "disk %s is being closed",
                    disk->name);
    else
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE,
                    "disk %s: another change took too long", disk->name);
    pthread_mutex_unlock(&disk->lock);
    return ok;
}

void disk_change_unlock(Disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    disk->changing = false;
    pthread_cond_signal(&disk->change_ended);
    pthread_mutex_unlock(&disk->lock);
}
