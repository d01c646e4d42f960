/* Noticing, while a disk is open, that others change its file: the locks keep out those alone who
 * ask for them.
 *
 * Our own writes leave a time in the disk's page before they leave the gate, so a file that was
 * changed later than that while nobody is inside was changed by somebody else. That holds until our
 * next write, which gives the file a new time: so it is looked for where we would do that by
 * ourselves, and when the disk is closed. */
#include "storage/track_private.h"
#include <sys/stat.h>

/* How long writes in flight may take before it is left to who comes next. */
#define GATE_USEC (30 * G_USEC_PER_SEC)

/* Growth is announced by disk_refresh, later. */
static bool has_its_size(const Disk *disk)
{
    struct stat st;
    return fstat(disk->backend->fd, &st) == 0 && (uint64_t)st.st_size == disk_size(disk);
}

bool disk_is_changed(Disk *disk, bool closed)
{
    DiskTrack *track = disk->track;
    DiskPageHeader *header = track->page.header;
    WatchIdentity now;
    if (!track->set->watched)
        return false;
    if (atomic_load(&header->changed))
        return true;
    int64_t last_write = atomic_load(&header->last_write);
    /* Whoever entered before the file was looked at is inside still, or has left his time. */
    bool changed = watch_identify(disk->backend, &now, NULL) && watch_changed(&now, last_write) &&
                   (closed || (atomic_load(disk->gate.state) & ~GATE_CLOSED) == 1) &&
                   atomic_load(&header->last_write) == last_write && has_its_size(disk);
    if (changed) {
        atomic_store(&header->changed, 1);
        extent_cache_changed(&disk->extents, 0, UINT64_MAX);
    }
    return changed;
}

static bool store_changed(StoreTxn *txn, gpointer data, GError **error)
{
    Disk *disk = data;
    DiskTrack *track = disk->track;
    track_freeze(track);
    store_txn_on_doubt(txn, track_doubt_change, track);
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        BitmapMeta meta = bitmap->meta; /* borrows its strings */
        if (meta.invalid_reason)
            continue;
        meta.invalid_reason = (char *)watch_changed_reason;
        meta.over_reported = 0;
        if (!store_put_bitmap(txn, track->id, bitmap->id, bitmap->name, bitmap->shift, &meta,
                              &bitmap->id, error) ||
            !store_put_bits(txn, bitmap->id, NULL, NULL, error))
            return false;
    }
    return store_put_sequence(txn, track->id, track->sequence + 1, error);
}

static void put_in_force(Disk *disk)
{
    DiskTrack *track = disk->track;
    track_lock(track);
    for (guint i = 0; i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        pthread_rwlock_wrlock(&bitmap->lock);
        if (bitmap->meta.invalid_reason == NULL) {
            bitmap->meta.invalid_reason = g_strdup(watch_changed_reason);
            bitmap->meta.over_reported = 0;
            bitmap->unreported = true;
            bitmap_replace_bits(bitmap, NULL);
            g_clear_pointer(&bitmap->stored, bits_free);
        }
        pthread_rwlock_unlock(&bitmap->lock);
    }
    track_stored_sequence(track, track->sequence + 1);
    track_set_recorders(track, NULL, 0);
    atomic_store(&track->page.header->changed, 0);
    track_unlock(track);
}

bool disk_settle_changed(Disk *disk, GError **error)
{
    if (!disk_is_changed(disk, true))
        return true;
    if (!store_transact(disk->store, store_changed, disk, error))
        return false;
    put_in_force(disk);
    return true;
}

void disk_notice(Disk *disk)
{
    gint64 deadline = g_get_monotonic_time() + GATE_USEC;
    if (!disk_change_lock(disk, deadline, NULL))
        return;
    if (gate_close(&disk->gate, deadline)) {
        /* Should it fail it stays noted, and is tried again. */
        disk_settle_changed(disk, NULL);
        track_thaw(disk->track);
        gate_open(&disk->gate);
    }
    disk_change_unlock(disk);
    disk_report_invalid(disk);
}
