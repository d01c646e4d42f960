/* What happens to a disk's bitmaps as a whole: the disk grows or shrinks, or they are given up
 * because the store cannot keep their promise. */
#include "storage/fault.h"
#include "storage/store_invalid.h"
#include "storage/track_private.h"

/* How long writes in flight may take before a resize or giving up fails. */
#define GATE_USEC (30 * G_USEC_PER_SEC)

typedef struct {
    Disk *disk;
    uint64_t size;
    Bits **bits, **stored; /* for each of the disk's bitmaps, for the new size */
    char *reason;          /* all become invalid */
} Resize;

static bool is_valid(const Bitmap *bitmap)
{
    return bitmap->meta.invalid_reason == NULL;
}

/* Bits for a larger disk: what is new counts as dirty, the old last block included, which may have
 * become longer. */
static Bits *grown(const Bits *bits, const Bitmap *bitmap, uint64_t size)
{
    Bits *copy = bits_copy(bits);
    if (copy && bits_grow(copy, bitmap_blocks(size, bitmap->shift))) {
        if (!fault("growth-counts-as-clean"))
            bits_set(copy, bitmap->size >> bitmap->shift, copy->count);
        return copy;
    }
    bits_free(copy);
    return NULL;
}

static bool prepare(Resize *resize, GError **error)
{
    GPtrArray *bitmaps = resize->disk->bitmaps;
    for (guint i = 0; resize->reason == NULL && i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (!is_valid(bitmap))
            continue;
        resize->bits[i] = grown(bitmap->bits, bitmap, resize->size);
        resize->stored[i] = resize->bits[i] ? bits_copy_certain(resize->bits[i]) : NULL;
        if (resize->stored[i] == NULL) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT,
                        "bitmap %s of disk %s cannot have so many blocks", bitmap->name,
                        resize->disk->name);
            return false;
        }
    }
    return true;
}

static bool store(StoreTxn *txn, gpointer data, GError **error)
{
    Resize *resize = data;
    DiskTrack *track = resize->disk->track;
    GPtrArray *bitmaps = resize->disk->bitmaps;
    track_freeze(track);
    if (!track->watched)
        return true;
    store_txn_on_doubt(txn, track_doubt_change, track);
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        BitmapMeta meta = bitmap->meta; /* borrows its strings */
        if (!is_valid(bitmap))
            continue;
        if (resize->reason)
            meta.invalid_reason = resize->reason;
        if (!store_put_bitmap(txn, track->id, bitmap->id, bitmap->name, bitmap->shift, &meta,
                              &bitmap->id, error) ||
            !store_put_bits(txn, bitmap->id, resize->bits[i], bitmap->stored, error))
            return false;
    }
    uint64_t end = bitmap_blocks(resize->size, track->region_shift) << track->region_shift;
    return store_put_sequence(txn, track->id, track->sequence + 1, error) &&
           store_del_intents_from(txn, track->id, end, error) &&
           store_put_size(txn, track->id, resize->size, error);
}

/* Bits and meta of one bitmap; bits NULL when it becomes invalid. */
static void replace(Bitmap *bitmap, uint64_t size, Bits *bits, Bits *stored, const char *reason)
{
    pthread_rwlock_wrlock(&bitmap->lock);
    bitmap->size = size;
    if (is_valid(bitmap)) {
        bitmap_replace_bits(bitmap, bits);
        bits_free(bitmap->stored);
        bitmap->stored = stored;
        bitmap->meta.invalid_reason = g_strdup(reason);
        bitmap->unreported = reason != NULL;
        if (reason)
            bitmap->meta.over_reported = 0;
    }
    pthread_rwlock_unlock(&bitmap->lock);
}

static void put_in_force(Resize *resize)
{
    Disk *disk = resize->disk;
    for (guint i = 0; i < disk->bitmaps->len; i++)
        replace(disk->bitmaps->pdata[i], resize->size, g_steal_pointer(&resize->bits[i]),
                g_steal_pointer(&resize->stored[i]), resize->reason);
    atomic_store(&disk->size, resize->size);
    track_stored_sequence(disk->track, disk->track->sequence + 1);
    track_want_map(disk->track);
    track_set_recorders(disk->track, NULL, 0);
    /* The file changed by our leave: what it looks like now is where others' changes begin. */
    disk_page_touch(&disk->track->page, true);
}

/* The gate is closed. */
static bool resize_frozen(Resize *resize, GError **error)
{
    DiskTrack *track = resize->disk->track;
    bool ok = prepare(resize, error) && store_transact(resize->disk->store, store, resize, error);
    track_lock(track);
    if (ok && !track_size_regions(track, resize->size)) {
        /* It is stored, so it holds at the next opening; until then the disk is as it was. */
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT, "no memory to track disk %s",
                    resize->disk->name);
        ok = false;
    }
    if (ok)
        put_in_force(resize);
    track_unlock(track);
    track_thaw(track);
    return ok;
}

static bool resize_disk(Disk *disk, uint64_t size, GError **error)
{
    guint count = disk->bitmaps->len;
    Resize resize = {
        .disk = disk,
        .size = size,
        .bits = g_new0(Bits *, count + 1),
        .stored = g_new0(Bits *, count + 1),
    };
    if (size < disk_size(disk))
        resize.reason = g_strdup("the disk has shrunk");
    bool ok = gate_close(&disk->gate, g_get_monotonic_time() + GATE_USEC);
    if (ok) {
        ok = resize_frozen(&resize, error);
        gate_open(&disk->gate);
    } else {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_TIMEOUT,
                    "disk %s: writes in flight took too long", disk->name);
    }
    for (guint i = 0; i < count; i++) {
        bits_free(resize.bits[i]);
        bits_free(resize.stored[i]);
    }
    g_free(resize.bits);
    g_free(resize.stored);
    g_free(resize.reason);
    return ok;
}

bool disk_refresh(Disk *disk, GError **error)
{
    uint64_t size;
    if (!disk_change_lock(disk, g_get_monotonic_time() + GATE_USEC, error))
        return false;
    int rc = disk->backend->ops->refresh(disk->backend, &size);
    extent_cache_changed(&disk->extents, 0, UINT64_MAX);
    bool ok = rc == 0;
    if (rc < 0)
        storage_error_set_errno(error, -rc, "cannot look at the size of disk %s", disk->name);
    else if (size != disk_size(disk))
        ok = resize_disk(disk, size, error);
    /* What does not fit the bitmaps must not be noted down as the size that they cover. */
    if (!ok)
        atomic_store(&disk->backend->size, disk_size(disk));
    disk_change_unlock(disk);
    disk_report_invalid(disk);
    return ok;
}

/* --- giving up --- */

/* The gate is closed: nobody writes between the file that says so and memory that does. */
static bool give_up_frozen(Disk *disk)
{
    static const char reason[] =
        "the state database could not be written, and the disk was written all the same";
    DiskTrack *track = disk->track;
    bool any = false;
    track_lock(track);
    bool ok = fault("doubtful-bitmap-not-given-up") || track_disown(track);
    for (guint i = 0; ok && i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        if (is_valid(bitmap))
            ok = store_invalid_put(track->store->invalid, bitmap->meta.generation, reason, NULL) ||
                 fault("invalid-file-unwritten");
    }
    for (guint i = 0; ok && i < disk->bitmaps->len; i++) {
        Bitmap *bitmap = disk->bitmaps->pdata[i];
        any = any || is_valid(bitmap);
        replace(bitmap, bitmap->size, NULL, NULL, reason);
    }
    if (any) {
        track->invalid_unsaved = true;
        track_set_recorders(track, NULL, 0);
    }
    track_unlock(track);
    return ok;
}

bool disk_give_up_bitmaps(Disk *disk)
{
    if (disk->store->options.on_failure != STORE_FAILURE_INVALIDATE)
        return false;
    gint64 deadline = g_get_monotonic_time() + GATE_USEC;
    if (!disk_change_lock(disk, deadline, NULL))
        return false;
    bool ok = gate_close(&disk->gate, deadline);
    if (ok) {
        /* It may have recovered, or another write been here, while this one waited. */
        ok = !atomic_load(&disk->track->failing) || give_up_frozen(disk);
        gate_open(&disk->gate);
    }
    disk_change_unlock(disk);
    disk_report_invalid(disk);
    return ok;
}
