/* Changes of the set of bitmaps: staged as what each bitmap would be, evaluated at one instant of
 * the write stream, stored with whatever belongs to the same transaction, then put in force.
 *
 * A bitmap that starts to record at that instant is `fresh` (add, clear, enable). A write that was
 * answered before the instant and is not yet durable would be seen by whoever copies the disk now,
 * and a power cut could take it back: changed since the starting point, and not recorded. So the
 * data is synced first, and blocks written since that sync began start out dirty: the bitmap
 * records them in `since`, from before the sync until the commit. */
#include "storage/fault.h"
#include "storage/store_invalid.h"
#include "storage/track_private.h"
#include <string.h>

typedef struct {
    Bitmap *bitmap; /* a reference; made by this change when !existed */
    bool existed;
    bool removed;
    bool fresh;
    bool touched; /* something of it has to be stored */
    BitmapMeta meta;
    int64_t id;         /* row, once stored */
    Bits *since;        /* while frozen or freezing, when fresh */
    Bits *result;       /* evaluated; NULL: as they are */
    Bits *stored_after; /* what the store has once committed */
} Entry;

typedef struct {
    bool reset; /* target's bits are cleared; else source's are merged into them */
    Entry *target, *source;
} Step;

struct DiskChange {
    Disk *disk;
    GPtrArray *entries;     /* of Entry: first the disk's bitmaps, then what was added */
    GArray *steps;          /* of Step */
    bool since_in_force;    /* writers see the `since` of fresh bitmaps */
    bool frozen;            /* the gate is closed and all is evaluated */
    bool unwatched;         /* the last bitmap goes */
    WatchIdentity identity; /* of the backing file, when the disk was not watched before */
    int64_t disk_id, sequence;
};

static void entry_free(gpointer data)
{
    Entry *entry = data;
    bitmap_unref(entry->bitmap);
    bitmap_meta_clear(&entry->meta);
    bits_free(entry->since);
    bits_free(entry->result);
    bits_free(entry->stored_after);
    g_free(entry);
}

DiskChange *disk_change_begin(Disk *disk, gint64 deadline, GError **error)
{
    if (!disk_change_lock(disk, deadline, error))
        return NULL;
    DiskChange *change = g_new0(DiskChange, 1);
    change->disk = disk_ref(disk);
    change->entries = g_ptr_array_new_with_free_func(entry_free);
    change->steps = g_array_new(FALSE, FALSE, sizeof(Step));
    g_autoptr(GPtrArray) bitmaps = disk_list_bitmaps(disk);
    for (guint i = 0; i < bitmaps->len; i++) {
        Entry *entry = g_new0(Entry, 1);
        entry->bitmap = bitmap_ref(bitmaps->pdata[i]);
        entry->existed = true;
        pthread_rwlock_rdlock(&entry->bitmap->lock);
        bitmap_meta_copy(&entry->meta, &entry->bitmap->meta);
        pthread_rwlock_unlock(&entry->bitmap->lock);
        g_ptr_array_add(change->entries, entry);
    }
    return change;
}

/* --- staging --- */

static Entry *lookup(DiskChange *change, const char *name)
{
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (!entry->removed && strcmp(entry->bitmap->name, name) == 0)
            return entry;
    }
    return NULL;
}

static Entry *find(DiskChange *change, const char *name, const char *if_generation, GError **error)
{
    Entry *entry = lookup(change, name);
    if (entry == NULL) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND, "disk %s has no bitmap %s",
                    change->disk->name, name);
        return NULL;
    }
    if (if_generation && strcmp(if_generation, entry->meta.generation) != 0) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE,
                    "bitmap %s of disk %s has generation %s, not %s", name, change->disk->name,
                    entry->meta.generation, if_generation);
        return NULL;
    }
    return entry;
}

static Entry *find_valid(DiskChange *change, const char *name, const char *if_generation,
                         GError **error)
{
    Entry *entry = find(change, name, if_generation, error);
    if (entry && entry->meta.invalid_reason) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE,
                    "bitmap %s of disk %s is invalid: %s", name, change->disk->name,
                    entry->meta.invalid_reason);
        return NULL;
    }
    return entry;
}

static void stage_reset(DiskChange *change, Entry *entry)
{
    Step step = {.reset = true, .target = entry};
    g_array_append_val(change->steps, step);
    g_free(entry->meta.generation);
    entry->meta.generation = store_new_uuid();
    g_clear_pointer(&entry->meta.invalid_reason, g_free);
    entry->fresh = true;
    entry->touched = true;
}

static unsigned count_present(DiskChange *change)
{
    unsigned count = 0;
    for (guint i = 0; i < change->entries->len; i++)
        count += !((Entry *)change->entries->pdata[i])->removed;
    return count;
}

bool disk_change_add(DiskChange *change, const char *name, uint32_t granularity, bool recording,
                     BitmapDurability durability, GError **error)
{
    uint64_t size = disk_size(change->disk);
    if (granularity < BITMAP_GRANULARITY_MIN || granularity > BITMAP_GRANULARITY_MAX ||
        (granularity & (granularity - 1))) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                    "granularity %u is not a power of two between %u and %u", granularity,
                    BITMAP_GRANULARITY_MIN, BITMAP_GRANULARITY_MAX);
        return false;
    }
    if (lookup(change, name)) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_EXISTS, "disk %s has a bitmap %s already",
                    change->disk->name, name);
        return false;
    }
    unsigned shift = (unsigned)__builtin_ctz(granularity);
    if (bitmap_blocks(size, shift) > BITS_MAX) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT,
                    "granularity %u is too fine for a disk of %" G_GUINT64_FORMAT " bytes",
                    granularity, size);
        return false;
    }
    if (count_present(change) >= DISK_MAX_BITMAPS) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT,
                    "disk %s has %u bitmaps already, the most there may be", change->disk->name,
                    DISK_MAX_BITMAPS);
        return false;
    }
    Entry *entry = g_new0(Entry, 1);
    entry->bitmap = bitmap_new(name, shift, size);
    entry->bitmap->watch = watch_reach(change->disk->backend);
    entry->meta.recording = recording;
    entry->meta.durability = durability;
    g_ptr_array_add(change->entries, entry);
    stage_reset(change, entry);
    return true;
}

bool disk_change_remove(DiskChange *change, const char *name, const char *if_generation,
                        GError **error)
{
    Entry *entry = find(change, name, if_generation, error);
    if (entry == NULL)
        return false;
    entry->removed = true;
    return true;
}

bool disk_change_clear(DiskChange *change, const char *name, const char *if_generation,
                       GError **error)
{
    Entry *entry = find(change, name, if_generation, error);
    if (entry == NULL)
        return false;
    stage_reset(change, entry);
    return true;
}

bool disk_change_enable(DiskChange *change, const char *name, const char *if_generation,
                        GError **error)
{
    Entry *entry = find_valid(change, name, if_generation, error);
    if (entry == NULL)
        return false;
    if (!entry->meta.recording) {
        entry->meta.recording = true;
        entry->fresh = true;
        entry->touched = true;
    }
    return true;
}

bool disk_change_disable(DiskChange *change, const char *name, const char *if_generation,
                         GError **error)
{
    Entry *entry = find_valid(change, name, if_generation, error);
    if (entry == NULL)
        return false;
    if (entry->meta.recording) {
        entry->meta.recording = false;
        entry->touched = true;
    }
    return true;
}

bool disk_change_merge(DiskChange *change, const char *target, const char *const *sources,
                       const char *if_generation, GError **error)
{
    Entry *into = find_valid(change, target, if_generation, error);
    if (into == NULL)
        return false;
    for (const char *const *name = sources; name && *name; name++) {
        if (!find_valid(change, *name, NULL, error))
            return false;
    }
    for (const char *const *name = sources; name && *name; name++) {
        Entry *from = lookup(change, *name);
        if (from == into)
            continue;
        Step step = {.target = into, .source = from};
        g_array_append_val(change->steps, step);
        into->touched = true;
    }
    return true;
}

/* --- evaluation --- */

static bool no_memory(DiskChange *change, GError **error)
{
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT, "no memory for the bitmaps of disk %s",
                change->disk->name);
    return false;
}

static Bits *copy_live(Bitmap *bitmap)
{
    pthread_rwlock_rdlock(&bitmap->lock);
    Bits *copy = bitmap->bits ? bits_copy(bitmap->bits)
                              : bits_new(bitmap_blocks(bitmap->size, bitmap->shift));
    pthread_rwlock_unlock(&bitmap->lock);
    return copy;
}

/* What the store will hold. The gate is closed. */
static Bits *copy_result(const Entry *entry)
{
    Bitmap *bitmap = entry->bitmap;
    const Bits *bits = entry->result ? entry->result : bitmap->bits;
    return bits ? bits_copy_certain(bits)
                : bits_new_certain(bitmap_blocks(bitmap->size, bitmap->shift));
}

/* Before any step: what is left of the last evaluation goes, and what may have changed since the
 * change began comes anew. */
static void start_over(Entry *entry)
{
    Bitmap *bitmap = entry->bitmap;
    g_clear_pointer(&entry->result, bits_free);
    pthread_rwlock_rdlock(&bitmap->lock);
    entry->meta.missed_writes = bitmap->meta.missed_writes;
    entry->meta.over_reported = bitmap->meta.over_reported;
    pthread_rwlock_unlock(&bitmap->lock);
}

static bool evaluate_reset(Entry *target)
{
    Bitmap *bitmap = target->bitmap;
    bits_free(target->result);
    target->result = bits_new(bitmap_blocks(bitmap->size, bitmap->shift));
    target->meta.missed_writes = false;
    target->meta.over_reported = 0;
    return target->result != NULL;
}

static bool evaluate_merge(Entry *target, Entry *source)
{
    Bitmap *into = target->bitmap, *from = source->bitmap;
    if (target->result == NULL && (target->result = copy_live(into)) == NULL)
        return false;
    if (source->result) {
        bits_merge(target->result, into->shift, source->result, from->shift);
    } else {
        pthread_rwlock_rdlock(&from->lock);
        if (from->bits)
            bits_merge(target->result, into->shift, from->bits, from->shift);
        pthread_rwlock_unlock(&from->lock);
    }
    bool missed = source->meta.missed_writes && !fault("merge-forgets-missed");
    target->meta.missed_writes = target->meta.missed_writes || missed;
    target->meta.over_reported =
        MIN(target->meta.over_reported + source->meta.over_reported, into->size);
    return true;
}

/* Entries' `result` and what else the steps change: as things are now. */
static bool evaluate(DiskChange *change, GError **error)
{
    for (guint i = 0; i < change->entries->len; i++)
        start_over(change->entries->pdata[i]);
    for (guint i = 0; i < change->steps->len; i++) {
        Step *step = &g_array_index(change->steps, Step, i);
        if (step->reset ? !evaluate_reset(step->target)
                        : !evaluate_merge(step->target, step->source))
            return no_memory(change, error);
    }
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (entry->since == NULL || fault("no-since"))
            continue;
        if (entry->result == NULL && (entry->result = copy_live(entry->bitmap)) == NULL)
            return no_memory(change, error);
        bits_merge(entry->result, entry->bitmap->shift, entry->since, entry->bitmap->shift);
    }
    return true;
}

bool disk_change_preview(DiskChange *change, const char *name, BitmapInfo *ret_info)
{
    Entry *entry = lookup(change, name);
    if (entry == NULL || (!change->frozen && !evaluate(change, NULL)))
        return false;
    Bitmap *bitmap = entry->bitmap;
    pthread_rwlock_rdlock(&bitmap->lock);
    bitmap_fill_info(ret_info, bitmap->name, bitmap->shift, bitmap->size, &entry->meta,
                     entry->result ? entry->result : bitmap->bits, bitmap->watch);
    pthread_rwlock_unlock(&bitmap->lock);
    return true;
}

static gint compare_strings(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *disk_change_preview_names(DiskChange *change)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (!entry->removed)
            g_ptr_array_add(names, g_strdup(entry->bitmap->name));
    }
    g_ptr_array_sort(names, compare_strings);
    return names;
}

/* --- the instant --- */

/* Starts to record at the instant; what is only cleared, or ends up disabled, records nothing. */
static bool starts(const Entry *entry)
{
    return entry->fresh && entry->meta.recording && !entry->removed;
}

static bool wants_sync(DiskChange *change)
{
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (starts(entry))
            return true;
    }
    return false;
}

static bool close_gate(DiskChange *change, gint64 deadline, GError **error)
{
    if (gate_close(&change->disk->gate, deadline))
        return true;
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_TIMEOUT,
                "disk %s: writes in flight took too long", change->disk->name);
    return false;
}

/* From here on writes are recorded in the `since` of fresh bitmaps, and those that are not have
 * finished: what the sync covers. */
static bool start_since(DiskChange *change, gint64 deadline, GError **error)
{
    g_autofree Recorder *recorders = g_new0(Recorder, change->entries->len);
    unsigned count = 0;
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (!starts(entry))
            continue;
        Bitmap *bitmap = entry->bitmap;
        entry->since = bits_new(bitmap_blocks(bitmap->size, bitmap->shift));
        if (entry->since == NULL)
            return no_memory(change, error);
        recorders[count++] = (Recorder){.bits = entry->since, .shift = bitmap->shift};
    }
    if (!close_gate(change, deadline, error))
        return false;
    if (!change->disk->track->set->watched)
        disk_page_touch(&change->disk->track->page, true); /* of earlier writes nobody kept it */
    track_set_recorders(change->disk->track, recorders, count);
    change->since_in_force = true;
    gate_open(&change->disk->gate);
    return true;
}

static bool sync_data(DiskChange *change, GError **error)
{
    Backend *backend = change->disk->backend;
    bool needless = backend->read_only || fault("start-without-sync");
    int rc = needless ? 0 : backend->ops->flush(backend);
    if (rc == 0)
        return true;
    storage_error_set_errno(error, -rc, "cannot sync disk %s", change->disk->name);
    return false;
}

/* Undoes start_since. With the gate open writers may be using the bits: they stay with the track
 * until the gate is next closed, since waiting here could take as long as a hung disk. */
static void stop_since(DiskChange *change)
{
    if (change->frozen)
        track_set_recorders(change->disk->track, NULL, 0);
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (entry->since && change->since_in_force && !change->frozen)
            track_discard(change->disk->track, g_steal_pointer(&entry->since));
        g_clear_pointer(&entry->since, bits_free);
    }
    change->since_in_force = false;
}

/* What the store will hold of each touched bitmap, so that putting it in force cannot fail. */
static bool prepare_results(DiskChange *change, GError **error)
{
    if (!evaluate(change, error))
        return false;
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (!entry->touched || entry->removed)
            continue;
        entry->stored_after = copy_result(entry);
        if (entry->stored_after == NULL)
            return no_memory(change, error);
    }
    return true;
}

/* With the gate closed: where others' changes of the file begin, if nobody watched it so far. The
 * mark of another state directory, or of an earlier watch, must not condemn this one. */
static bool prepare_watch(DiskChange *change, GError **error)
{
    Disk *disk = change->disk;
    DiskTrack *track = disk->track;
    if (track->watched || count_present(change) == 0)
        return true;
    if (!disk->backend->read_only)
        watch_mark(disk->backend, disk->store->id, track->sequence + 1); /* see store_watch */
    disk_page_touch(&track->page, true);
    disk_page_claim(&track->page);
    return watch_identify(disk->backend, &change->identity, error);
}

bool disk_change_freeze(DiskChange *const *changes, size_t count, gint64 deadline, GError **error)
{
    size_t i;
    for (i = 0; i < count; i++) {
        if (wants_sync(changes[i]) &&
            (!start_since(changes[i], deadline, error) || !sync_data(changes[i], error)))
            goto failed;
    }
    for (i = 0; i < count; i++) {
        if (!close_gate(changes[i], deadline, error))
            goto failed;
        changes[i]->frozen = true;
    }
    for (i = 0; i < count; i++) {
        if (!prepare_results(changes[i], error) || !prepare_watch(changes[i], error))
            goto failed;
    }
    return true;

failed:
    for (i = 0; i < count; i++) {
        stop_since(changes[i]);
        if (changes[i]->frozen)
            gate_open(&changes[i]->disk->gate);
        changes[i]->frozen = false;
    }
    return false;
}

/* The change has made or cleared it. */
static bool is_other_generation(const Entry *entry)
{
    return !entry->existed || strcmp(entry->bitmap->meta.generation, entry->meta.generation) != 0;
}

/* While every bitmap is invalid, writes neither take the clean flag away nor leave their time. */
static bool writes_are_watched(DiskChange *change)
{
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (entry->existed && entry->bitmap->bits)
            return true;
    }
    return false;
}

static bool store_watch(DiskChange *change, StoreTxn *txn, GError **error)
{
    DiskTrack *track = change->disk->track;
    bool present = count_present(change) > 0;
    change->sequence = track->sequence;
    change->unwatched = !present && track->watched;
    if (change->unwatched)
        change->sequence++; /* mark_unwatched's */
    if (!present)
        return !track->watched || store_del_watch(txn, change->disk_id, error);
    bool watched = writes_are_watched(change);
    if (track->watched && track->clean && watched)
        return true; /* its contents are as they were */
    if (!watched)
        disk_page_touch(&track->page, true);
    change->sequence++;
    if (track->watched)
        return store_put_sequence(txn, change->disk_id, change->sequence, error);
    WatchRow row = {.identity = change->identity, .sequence = change->sequence};
    g_strlcpy(row.boot, watch_boot_id(), sizeof row.boot);
    return store_put_watch(txn, change->disk_id, &row, error);
}

/* After a crash there may be what memory knows nothing of. */
static void doubt(gpointer data)
{
    DiskChange *change = data;
    DiskTrack *track = change->disk->track;
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        if (!entry->removed && is_other_generation(entry))
            track_doubt_generation(track, entry->meta.generation);
    }
    track_doubt_change(track);
}

bool disk_change_store(DiskChange *change, StoreTxn *txn, GError **error)
{
    DiskTrack *track = change->disk->track;
    track_freeze(track);
    store_txn_on_doubt(txn, doubt, change);
    if (!store_find_disk(txn, change->disk->name, &change->disk_id, error) ||
        !store_watch(change, txn, error))
        return false;
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        Bitmap *bitmap = entry->bitmap;
        if (entry->existed && entry->removed && !store_del_bitmap(txn, bitmap->id, error))
            return false;
    }
    for (guint i = 0; i < change->entries->len; i++) {
        Entry *entry = change->entries->pdata[i];
        Bitmap *bitmap = entry->bitmap;
        if (!entry->touched || entry->removed)
            continue;
        entry->id = bitmap->id;
        if (!store_put_bitmap(txn, change->disk_id, entry->id, bitmap->name, bitmap->shift,
                              &entry->meta, &entry->id, error) ||
            (!fault("change-without-bits") &&
             !store_put_bits(txn, entry->id, entry->stored_after, bitmap->stored, error)))
            return false;
    }
    return true;
}

static void publish_entry(Entry *entry, StoreInvalid *invalid)
{
    Bitmap *bitmap = entry->bitmap;
    if (entry->existed && (entry->removed || is_other_generation(entry)))
        store_invalid_forget(invalid, bitmap->meta.generation);
    if (entry->removed) {
        bitmap_remove(bitmap);
        return;
    }
    pthread_rwlock_wrlock(&bitmap->lock);
    if (entry->touched) {
        bitmap->id = entry->id;
        bitmap_meta_copy(&bitmap->meta, &entry->meta);
        if (entry->result)
            bitmap_replace_bits(bitmap, g_steal_pointer(&entry->result));
        bits_free(bitmap->stored);
        bitmap->stored = g_steal_pointer(&entry->stored_after);
    }
    pthread_rwlock_unlock(&bitmap->lock);
}

/* Whether the time of the last write was kept. */
static bool has_bits(GPtrArray *bitmaps)
{
    for (guint i = 0; i < bitmaps->len; i++) {
        if (((Bitmap *)bitmaps->pdata[i])->bits)
            return true;
    }
    return false;
}

static void publish(DiskChange *change)
{
    Disk *disk = change->disk;
    DiskTrack *track = disk->track;
    GPtrArray *bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)bitmap_unref);
    g_autoptr(GPtrArray) names = disk_change_preview_names(change);
    for (guint i = 0; i < names->len; i++)
        g_ptr_array_add(bitmaps, bitmap_ref(lookup(change, names->pdata[i])->bitmap));

    track_lock(track);
    /* Otherwise what others have done to the file meanwhile would be ours. */
    bool anew = !has_bits(disk->bitmaps);
    for (guint i = 0; i < change->entries->len; i++)
        publish_entry(change->entries->pdata[i], disk->store->invalid);
    pthread_mutex_lock(&disk->lock);
    GPtrArray *old = disk->bitmaps;
    disk->bitmaps = bitmaps;
    pthread_mutex_unlock(&disk->lock);
    g_ptr_array_unref(old);
    track->id = change->disk_id;
    track->watched = bitmaps->len > 0;
    if (track->watched)
        disk_page_settle(&track->page);
    if (change->sequence != track->sequence)
        track_stored_sequence(track, change->sequence);
    if (!track->watched)
        track->marked = track->clean = false;
    track_want_map(track);
    track_set_recorders(track, NULL, 0);
    if (anew) {
        disk_page_touch(&track->page, true);
        atomic_store(&track->page.header->changed, 0);
    }
    track_unlock(track);
}

/* What is written from here on nobody records: copies of the state that have the bitmaps still are
 * older than the file. */
static void mark_unwatched(DiskChange *change)
{
    Disk *disk = change->disk;
    if (change->unwatched && !disk->backend->read_only)
        watch_mark(disk->backend, disk->store->id, change->sequence);
}

/* Where a bitmap records, writes wait for the end of a doubt by themselves. */
static void disown(DiskChange *change)
{
    DiskTrack *track = change->disk->track;
    track_lock(track);
    if (!track->set->watched)
        track_disown(track);
    track_unlock(track);
}

void disk_change_finish(DiskChange *change, bool committed)
{
    if (change == NULL)
        return;
    if (change->frozen && committed) {
        publish(change);
        mark_unwatched(change);
    } else {
        stop_since(change);
        if (change->frozen)
            disown(change);
    }
    if (change->frozen) {
        track_thaw(change->disk->track);
        gate_open(&change->disk->gate);
    }
    g_array_unref(change->steps);
    g_ptr_array_unref(change->entries);
    disk_change_unlock(change->disk);
    disk_unref(change->disk);
    g_free(change);
}
