/* Opening a disk: what the store has about it, whether that can be trusted, and what has to be
 * made up for when the last process ended without a word. And closing it.
 *
 * Recovery: the blocks under an intent may have changed, so all of them become dirty in every
 * bitmap that records. A bitmap that does not record needs nothing: its exact bits were stored in
 * the transaction that stopped it. One that survives less than what happened is invalid. */
#include "storage/fault.h"
#include "storage/track_private.h"
#include <string.h>

typedef struct {
    DiskTrack *track;
    int64_t wanted; /* row of the disk, 0: any of its name */
    const char *page_id;
    const DiskPageRemains *remains;
    const WatchIdentity *identity;
    int64_t last_write;
    int64_t fresh; /* above every number given so far */
    WatchRow row;
    GPtrArray *bitmaps;
    GArray *intents; /* of TrackRange */
} Load;

static void invalidate(Bitmap *bitmap, const char *reason)
{
    if (bitmap->meta.invalid_reason)
        return;
    bitmap->meta.invalid_reason = g_strdup(reason);
    bitmap->meta.over_reported = 0;
    bitmap->unreported = true;
    bitmap_replace_bits(bitmap, NULL);
    g_clear_pointer(&bitmap->stored, bits_free);
}

static void invalidate_all(Load *load, const char *reason)
{
    for (guint i = 0; i < load->bitmaps->len; i++)
        invalidate(load->bitmaps->pdata[i], reason);
}

static void note_intent(uint64_t offset, uint64_t length, gpointer data)
{
    Load *load = data;
    TrackRange range = {offset, offset + length};
    g_array_append_val(load->intents, range);
}

static void set_range(Bitmap *bitmap, uint64_t offset, uint64_t end)
{
    end = MIN(end, bitmap->size);
    if (offset < end)
        bits_set(bitmap->bits, offset >> bitmap->shift, ((end - 1) >> bitmap->shift) + 1);
}

/* The regions that the page's map says were written. */
static void expand_map(Load *load, Bitmap *bitmap)
{
    const DiskPageRemains *remains = load->remains;
    const _Atomic uint8_t *map = load->track->page.map;
    for (uint64_t region = 0; region < remains->map_size; region++) {
        if (atomic_load(&map[region]) != PAGE_REGION_QUIET)
            set_range(bitmap, region << remains->region_shift,
                      (region + 1) << remains->region_shift);
    }
}

static void expand_intents(Load *load, Bitmap *bitmap)
{
    guint count = load->intents->len;
    if (fault("recover-skips-last") && count > 0)
        count--;
    for (guint i = 0; i < count; i++) {
        TrackRange *range = &g_array_index(load->intents, TrackRange, i);
        set_range(bitmap, range->offset, range->end);
    }
}

/* A recording bitmap of a disk that was not closed. */
static void recover(Load *load, Bitmap *bitmap)
{
    bool same_boot = strcmp(load->row.boot, watch_boot_id()) == 0;
    uint64_t before = bitmap_dirty_bytes(bitmap->bits, bitmap->size, bitmap->shift);
    switch (bitmap->meta.durability) {
    case DURABILITY_NONE:
        if (fault("none-survives-a-crash"))
            return;
        invalidate(bitmap, "nbdd did not stop cleanly, which a bitmap of durability none does not "
                           "survive");
        return;
    case DURABILITY_PROCESS:
        if (!same_boot || !load->remains->found) {
            invalidate(bitmap, "the machine did not stop cleanly, which a bitmap of durability "
                               "process does not survive");
            return;
        }
        expand_map(load, bitmap);
        expand_intents(load, bitmap);
        break;
    case DURABILITY_POWER:
        expand_intents(load, bitmap);
        break;
    }
    bitmap->meta.over_reported +=
        bitmap_dirty_bytes(bitmap->bits, bitmap->size, bitmap->shift) - before;
}

static void recover_all(Load *load)
{
    for (guint i = 0; i < load->bitmaps->len; i++) {
        Bitmap *bitmap = load->bitmaps->pdata[i];
        if (bitmap->bits && bitmap->meta.recording) {
            recover(load, bitmap);
            if (fault("recover-one-sibling"))
                break;
        }
    }
}

/* A device that has grown; of a file that is somebody else's doing, and judged before. */
static void resize_all(Load *load)
{
    uint64_t then = load->row.identity.size, now = load->identity->size;
    if (now < then)
        invalidate_all(load, "the disk has shrunk");
    for (guint i = 0; now > then && i < load->bitmaps->len; i++) {
        Bitmap *bitmap = load->bitmaps->pdata[i];
        if (bitmap->bits)
            set_range(bitmap, then, now);
    }
}

static bool store_recovered(Load *load, StoreTxn *txn, GError **error)
{
    DiskTrack *track = load->track;
    for (guint i = 0; i < load->bitmaps->len; i++) {
        Bitmap *bitmap = load->bitmaps->pdata[i];
        if (!store_put_bitmap(txn, track->id, bitmap->id, bitmap->name, bitmap->shift,
                              &bitmap->meta, &bitmap->id, error) ||
            !store_put_bits(txn, bitmap->id, bitmap->bits, bitmap->stored, error))
            return false;
        if (bitmap->bits)
            bits_merge(bitmap->stored, bitmap->shift, bitmap->bits, bitmap->shift);
    }
    load->row.identity.size = load->identity->size;
    return store_del_intents(txn, track->id, error) &&
           store_put_watch(txn, track->id, &load->row, error);
}

/* The mark will be later than the boot, and whoever comes after a kill must not judge by that: from
 * the commit on the page must be there that a row of this boot wants. */
static void begin_in_this_boot(Load *load)
{
    WatchRow *row = &load->row;
    if (strcmp(row->boot, watch_boot_id()) == 0)
        return;
    disk_page_reset(&load->track->page, load->page_id, watch_boot_id(),
                    (uint64_t)load->identity->inode, load->last_write, (uint64_t)row->sequence);
    g_strlcpy(row->boot, watch_boot_id(), sizeof row->boot);
}

static bool load_all(StoreTxn *txn, gpointer data, GError **error)
{
    Load *load = data;
    DiskTrack *track = load->track;
    if (!store_find_disk(txn, track->disk->name, &track->id, error))
        return false;
    /* Another one that has the name by now is open already: nothing of it may be touched. */
    if (load->wanted != 0 && track->id != load->wanted) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND,
                    "disk %s was removed before its file answered", track->disk->name);
        return false;
    }
    if (track->id == 0)
        return true;
    if (!store_load_bitmaps(txn, track->id, load->identity->size, load->bitmaps, error) ||
        !store_load_watch(txn, track->id, &load->row, error) ||
        !store_load_intents(txn, track->id, note_intent, load, error))
        return false;
    track->watched = load->row.present;
    load->fresh =
        watch_fresh_sequence(track->disk->backend, track->store->id, &load->row, load->remains);
    if (load->bitmaps->len == 0)
        return store_del_intents(txn, track->id, error) && store_del_watch(txn, track->id, error);
    g_autofree char *reason = watch_judge(track->disk->backend, track->store->id, &load->row,
                                          load->identity, load->remains, &load->last_write);
    if (reason)
        invalidate_all(load, reason);
    else
        resize_all(load);
    if (load->row.present && load->row.clean && !reason)
        return load->identity->size == load->row.identity.size || store_recovered(load, txn, error);
    if (!reason)
        recover_all(load);
    if (!load->row.present || reason) {
        /* From here on it is watched anew. */
        load->row.present = true;
        load->row.clean = false;
        load->row.identity = *load->identity;
        g_strlcpy(load->row.boot, watch_boot_id(), sizeof load->row.boot);
        load->last_write = load->identity->ctime;
    }
    track->watched = true;
    begin_in_this_boot(load);
    load->row.sequence = load->fresh;
    return store_recovered(load, txn, error);
}

/* A name for the page's file: of this database and disk alone. */
static char *page_id(const Store *store, const char *name)
{
    g_autofree char *text = g_strdup_printf("%s/%s", store->id, name);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, text, -1);
    return g_strndup(sum, 40);
}

void track_want_map(DiskTrack *track)
{
    GPtrArray *bitmaps = track->disk->bitmaps;
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->meta.durability == DURABILITY_PROCESS) {
            /* Should there be no room, track_set_recorders sees that it is too short. */
            disk_page_add_map(&track->page, track->regions, track->region_shift);
            return;
        }
    }
}

void disk_forget(Store *store, const char *name)
{
    g_autofree char *id = page_id(store, name);
    disk_page_forget(store->runtime_dir, id);
}

/* Copies of the state from before are older than the file from here on, also to who has lost the
 * page: the background's marks come later, and a copy may lie between two of them. */
static void mark_fresh(DiskTrack *track)
{
    if (track->disk->backend->read_only)
        return;
    /* It changes the file's times, and may be killed: as a write, it says before that it comes. */
    disk_page_touch(&track->page, false);
    atomic_store(&track->page.header->gate, 1);
    watch_mark(track->disk->backend, track->store->id, track->sequence);
    disk_page_touch(&track->page, true);
    atomic_store(&track->page.header->gate, 0);
}

bool track_load(DiskTrack *track, int64_t row, bool new, GError **error)
{
    WatchIdentity identity;
    DiskPageRemains remains;
    g_autofree char *id = page_id(track->store, track->disk->name);
    if (!watch_identify(track->disk->backend, &identity, error))
        return false;
    disk_page_open(&track->page, track->store->runtime_dir, id, watch_boot_id(),
                   (uint64_t)identity.inode, new, &remains);
    Load load = {
        .track = track,
        .wanted = row,
        .page_id = id,
        .remains = &remains,
        .identity = &identity,
        .last_write = identity.ctime,
        .bitmaps = track->disk->bitmaps,
        .intents = g_array_new(FALSE, FALSE, sizeof(TrackRange)),
    };
    bool ok = new || store_transact_together(track->store, load_all, &load, error);
    g_array_unref(load.intents);
    if (!ok)
        return false;
    for (guint i = 0; i < load.bitmaps->len; i++)
        ((Bitmap *)load.bitmaps->pdata[i])->watch = watch_reach(track->disk->backend);
    if (load.bitmaps->len == 0)
        track->watched = false;
    if (load.fresh == 0) /* there was nothing to look up */
        load.fresh =
            watch_fresh_sequence(track->disk->backend, track->store->id, &load.row, &remains);
    track->clean = track->watched && load.row.clean;
    track->sequence = track->marked_sequence = load.fresh;
    disk_page_reset(&track->page, id, watch_boot_id(), (uint64_t)identity.inode, load.last_write,
                    (uint64_t)(track->clean ? load.row.sequence : load.fresh));
    if (track->watched && !track->clean)
        mark_fresh(track);
    track_want_map(track);
    track->loaded = true;
    return true;
}

/* --- closing --- */

typedef struct {
    DiskTrack *track;
    WatchRow row; /* clean: written last, when the file has been marked */
} Close;

static bool store_all(StoreTxn *txn, gpointer data, GError **error)
{
    Close *close = data;
    DiskTrack *track = close->track;
    GPtrArray *bitmaps = track->disk->bitmaps;
    track_freeze(track); /* for good: what is stored now is the last word */
    if (!store_put_sequence(txn, track->id, track->sequence + 1, error)) {
        track->gone = g_error_matches(*error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND);
        if (track->gone)
            g_clear_error(error);
        return track->gone;
    }
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (!store_put_bitmap(txn, track->id, bitmap->id, bitmap->name, bitmap->shift,
                              &bitmap->meta, &bitmap->id, error) ||
            !store_put_bits(txn, bitmap->id, bitmap->bits, bitmap->stored, error))
            return false;
    }
    return store_del_intents(txn, track->id, error);
}

static bool store_clean(StoreTxn *txn, gpointer data, GError **error)
{
    Close *close = data;
    return store_put_watch(txn, close->track->id, &close->row, error);
}

/* Who comes between the mark and this look would be taken for us. */
static bool is_as_marked(DiskTrack *track, const WatchIdentity *identity, GError **error)
{
    if (!track->set->watched ||
        !watch_changed(identity, atomic_load(&track->page.header->last_write)))
        return true;
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE,
                "disk %s was changed by others while it was closed", track->disk->name);
    return false;
}

bool track_store_clean(DiskTrack *track, GError **error)
{
    Disk *disk = track->disk;
    Close close = {.track = track};
    GError *local = NULL;
    track_lock(track);
    bool unchanged = !track->watched || track->gone || (!track->marked && track->clean);
    track_unlock(track);
    if (unchanged)
        return true; /* it is still as it was when it was opened, or of no concern */
    bool ok = store_transact(track->store, store_all, &close, &local);
    if (!ok || track->gone)
        goto out;
    track_lock(track);
    track_stored_sequence(track, track->sequence + 1);
    track_unlock(track);
    if (!disk_settle_changed(disk, &local)) {
        ok = false;
        goto out;
    }
    if (!disk->backend->read_only) {
        /* It changes the file's times: whoever comes after a kill must see that it was us. */
        gate_enter_closed(&disk->gate);
        watch_mark(disk->backend, track->store->id, track->sequence);
        disk_page_touch(&track->page, true);
        gate_leave(&disk->gate);
    }
    close.row = (WatchRow){.present = true, .clean = true, .sequence = track->sequence};
    g_strlcpy(close.row.boot, watch_boot_id(), sizeof close.row.boot);
    /* A power cut that took the times back afterwards would look like somebody else's doing. */
    ok = watch_settle(disk->backend, &local) &&
         watch_identify(disk->backend, &close.row.identity, &local) &&
         is_as_marked(track, &close.row.identity, &local) &&
         store_transact(track->store, store_clean, &close, &local);
    track_lock(track);
    track->clean = ok;
    track_unlock(track);
out:
    if (local)
        g_propagate_error(error, local);
    return ok;
}
