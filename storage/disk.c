/* A disk's life and its data path. */
#include "storage/fault.h"
#include "storage/track_private.h"
#include <errno.h>
#include <string.h>

/* --- life --- */

static gint by_name(gconstpointer a, gconstpointer b)
{
    const Bitmap *const *one = a, *const *other = b;
    return strcmp((*one)->name, (*other)->name);
}

static Disk *open_disk(Store *store, int64_t row, const char *name, const char *path,
                       bool read_only, CacheMode cache, bool new, GError **error)
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
    pthread_mutex_init(&disk->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&disk->change_ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    disk->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)bitmap_unref);
    extent_cache_init(&disk->extents);
    disk->track = track_new(disk);
    if (!track_size_regions(disk->track, disk_size(disk))) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT, "no memory to track disk %s", name);
        goto failed;
    }
    if (!track_load(disk->track, row, new, error))
        goto failed;
    g_ptr_array_sort(disk->bitmaps, by_name);
    gate_init(&disk->gate, &disk->track->page.header->gate);
    track_set_recorders(disk->track, NULL, 0);
    track_rearm(disk->track);
    track_attach(disk->track);
    disk->attached = true;
    disk_report_invalid(disk);
    return disk;

failed:
    disk_unref(disk);
    return NULL;
}

Disk *disk_open(Store *store, int64_t row, const char *name, const char *path, bool read_only,
                CacheMode cache, GError **error)
{
    return open_disk(store, row, name, path, read_only, cache, false, error);
}

Disk *disk_open_new(Store *store, const char *name, const char *path, bool read_only,
                    CacheMode cache, GError **error)
{
    return open_disk(store, 0, name, path, read_only, cache, true, error);
}

Disk *disk_ref(Disk *disk)
{
    atomic_fetch_add(&disk->references, 1);
    return disk;
}

Disk *disk_ref_alive(Disk *disk)
{
    unsigned references = atomic_load(&disk->references);
    while (references > 0) {
        if (atomic_compare_exchange_weak(&disk->references, &references, references + 1))
            return disk;
    }
    return NULL;
}

void disk_unref(Disk *disk)
{
    if (disk == NULL || atomic_fetch_sub(&disk->references, 1) > 1)
        return;
    DiskTrack *track = disk->track;
    if (disk->attached) {
        track_detach(track);
        gate_clear(&disk->gate);
    }
    /* The page is for who comes after an unclean stop, or after an opening that failed. */
    disk_page_close(&track->page,
                    track->loaded && (track->clean || !track->watched || track->gone));
    track_free(track);
    backend_close(disk->backend);
    for (guint i = 0; i < disk->bitmaps->len; i++)
        bitmap_remove(disk->bitmaps->pdata[i]);
    g_ptr_array_unref(disk->bitmaps);
    extent_cache_destroy(&disk->extents);
    pthread_mutex_destroy(&disk->lock);
    pthread_cond_destroy(&disk->change_ended);
    g_free(disk->name);
    g_free(disk);
}

bool disk_close_clean(Disk *disk, GError **error)
{
    if (!disk_change_lock(disk, G_MAXINT64, error))
        return false;
    if (!gate_close(&disk->gate, G_MAXINT64)) {
        disk_change_unlock(disk);
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_TIMEOUT,
                    "disk %s: writes in flight have not ended", disk->name);
        return false;
    }
    pthread_mutex_lock(&disk->lock);
    disk->closed = true;
    pthread_mutex_unlock(&disk->lock);
    disk_change_unlock(disk);
    int rc = disk->backend->read_only ? 0 : disk->backend->ops->flush(disk->backend);
    if (rc < 0) {
        storage_error_set_errno(error, -rc, "cannot sync disk %s", disk->name);
        return false;
    }
    bool ok = track_store_clean(disk->track, error);
    disk_report_invalid(disk);
    return ok;
}

typedef struct {
    DiskTrack *track;
    bool ok;
} Checkpoint;

static void checkpoint(Store *store, gpointer data)
{
    Checkpoint *job = data;
    job->ok = track_retire_all(job->track);
}

bool disk_checkpoint(Disk *disk, GError **error)
{
    Checkpoint job = {.track = disk->track};
    store_call(disk->store, checkpoint, &job);
    if (!job.ok)
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_IO,
                    "the bitmaps of disk %s could not be stored", disk->name);
    return job.ok;
}

void disk_report_invalid(Disk *disk)
{
    g_autoptr(GPtrArray) bitmaps = disk_list_bitmaps(disk);
    for (guint i = 0; disk->store->invalidated && i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        g_autofree char *reason = NULL;
        pthread_rwlock_wrlock(&bitmap->lock);
        if (bitmap->unreported)
            reason = g_strdup(bitmap->meta.invalid_reason);
        bitmap->unreported = false;
        pthread_rwlock_unlock(&bitmap->lock);
        if (reason)
            disk->store->invalidated(disk->name, bitmap->name, reason,
                                     disk->store->invalidated_data);
    }
}

void disk_mark(Disk *disk)
{
    DiskTrack *track = disk->track;
    if (disk->backend->read_only || !gate_enter(&disk->gate))
        return; /* it is being closed, which marks it, or changed, which commits and so comes back
                 */
    bool changed = disk_is_changed(disk, false);
    if (!changed) {
        track_write_begins(track);
        watch_mark(disk->backend, disk->store->id,
                   (int64_t)atomic_load(&track->page.header->sequence));
        track_write_ended(track);
    }
    gate_leave(&disk->gate);
    if (changed)
        disk_notice(disk);
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

/* --- data path --- */

/* Inside the gate: the disk may have shrunk since the caller looked. */
static bool is_inside(Disk *disk, uint64_t offset, uint64_t length)
{
    uint64_t size = disk_size(disk);
    return offset <= size && length <= size - offset;
}

int disk_write_begin(Disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    DiskTrack *track = disk->track;
    for (;;) {
        if (!gate_enter(&disk->gate)) {
            if (flags & IO_NOWAIT)
                return -EAGAIN;
            gate_wait(&disk->gate);
            continue;
        }
        if (!is_inside(disk, offset, length)) {
            gate_leave(&disk->gate);
            return -ENOSPC;
        }
        uint64_t ticket = 0;
        int rc = track_admit(track, offset, offset + length, &ticket);
        if (rc == 0) {
            track_write_begins(track);
            return 0;
        }
        gate_leave(&disk->gate);
        if (flags & IO_NOWAIT)
            return -EAGAIN;
        if (rc != -EAGAIN && !disk_give_up_bitmaps(disk))
            return rc;
        if (rc == -EAGAIN)
            track_wait(track, ticket);
    }
}

void disk_write_end(Disk *disk)
{
    track_write_ended(disk->track);
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
    int rc = disk_write_begin(disk, offset, length, flags);
    if (rc < 0)
        return rc;
    rc = disk->backend->ops->pwrite(disk->backend, buffer, length, offset, flags);
    extent_cache_changed(&disk->extents, offset, length);
    disk_write_end(disk);
    return rc;
}

int disk_zero(Disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    if (length == 0)
        return 0;
    int rc = fault("zero-untracked") && gate_enter(&disk->gate)
                 ? 0
                 : disk_write_begin(disk, offset, length, flags);
    if (rc < 0)
        return rc;
    rc = disk->backend->ops->zero(disk->backend, offset, length, flags);
    extent_cache_changed(&disk->extents, offset, length);
    disk_write_end(disk);
    return rc;
}

int disk_trim(Disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    if (length == 0)
        return 0;
    int rc = fault("trim-untracked") && gate_enter(&disk->gate)
                 ? 0
                 : disk_write_begin(disk, offset, length, flags);
    if (rc < 0)
        return rc;
    rc = disk->backend->ops->trim(disk->backend, offset, length, flags);
    extent_cache_changed(&disk->extents, offset, length);
    disk_write_end(disk);
    return rc;
}

int disk_flush(Disk *disk)
{
    return disk->backend->ops->flush(disk->backend);
}

int disk_extents(Disk *disk, uint64_t offset, uint64_t length, ExtentList *list)
{
    return extent_cache_extents(&disk->extents, disk->backend, offset, length, list);
}

int disk_run_to_read(Disk *disk, uint64_t offset, uint64_t length, uint64_t *ret_length,
                     bool *ret_hole)
{
    return extent_cache_run_to_read(&disk->extents, disk->backend, offset, length, ret_length,
                                    ret_hole);
}

int disk_prefetch(Disk *disk, uint64_t offset, uint64_t length)
{
    return disk->backend->ops->prefetch(disk->backend, offset, length);
}

int disk_prepare_write(Disk *disk, uint64_t offset, uint64_t length, DiskWaiter *waiter)
{
    for (;;) {
        if (!gate_enter(&disk->gate)) {
            if (gate_notify(&disk->gate, waiter))
                return -EINPROGRESS;
            continue;
        }
        uint64_t ticket = 0;
        bool asks = length > 0 && is_inside(disk, offset, length);
        int rc = asks ? track_admit(disk->track, offset, offset + length, &ticket) : 0;
        gate_leave(&disk->gate);
        if (rc != -EAGAIN)
            return 0; /* or the write itself will say what is wrong */
        if (track_notify(disk->track, ticket, waiter))
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
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_TIMEOUT,
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
