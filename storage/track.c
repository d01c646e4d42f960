/* The promise, and the writers' side of it.
 *
 * THE INVARIANT: blocks that may differ from what they were at a recording bitmap's starting point
 * are a subset of the bitmap's stored bits plus the regions with an intent, at every instant.
 *
 * A write may reach the disk at any time once the kernel has it. So before that either every block
 * of it is stored as dirty in every bitmap that records, or the region it lies in has an intent in
 * the store. An intent makes its whole region dirty in every recording bitmap after a crash; the
 * bits themselves stay in memory until the region has gone quiet, and then one transaction stores
 * them and deletes the intent (the region is retired).
 *
 * Why nothing slips between writers and a retirement. A writer sets its bits, then looks whether
 * the region's byte says DURABLE. The store thread takes DURABLE away, then reads the bits. All of
 * it is sequentially consistent: either the writer still saw DURABLE, and then the store thread
 * sees its bits and stores them, or it saw that DURABLE was gone and waits for a new intent. A bit
 * found set already was set by a writer of whom the same is true.
 *
 * Why nothing slips between writers and a change of what records. All of a write, from the bits to
 * the last byte, happens inside the disk's gate. Changes close the gate and wait until nobody is
 * inside, so a write is either finished, or begins under the new set. Bits are never cleared while
 * the gate is open. Waiting for the store happens outside the gate; who comes back begins anew.
 *
 * What was committed counts, what was rolled back does not, and a COMMIT that failed counts as
 * neither until the database has been rebuilt: `distrusted` puts the stored bits out of use,
 * regions that it would have retired are not DURABLE, and `armed` is false. A bitmap that it would
 * have made or cleared records nothing, and after a crash may be there: before anything is written
 * that is not recorded, either the file of invalidations has it, or writes wait. */
#include "storage/fault.h"
#include "storage/track_private.h"
#include <errno.h>
#include <stdlib.h>

/* A write to more regions than this has its bits stored at once instead of asking for intents. */
#define WIDE_REGIONS 64
/* Region size is doubled until a disk has no more than this many. */
#define MAX_REGIONS (UINT64_C(1) << 22)

static void demand_init(Demand *demand)
{
    *demand = (Demand){
        .regions = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
        .ranges = g_array_new(FALSE, FALSE, sizeof(TrackRange)),
    };
}

DiskTrack *track_new(Disk *disk)
{
    DiskTrack *track = g_new0(DiskTrack, 1);
    uint64_t size = disk_size(disk);
    track->disk = disk;
    track->store = disk->store;
    track->page.fd = -1;
    track->discarded = g_ptr_array_new_with_free_func((GDestroyNotify)bits_free);
    track->set = g_malloc0(sizeof(RecordSet));
    track->region_shift = (unsigned)__builtin_ctzll(track->store->options.region_size);
    while (size >> track->region_shift > MAX_REGIONS)
        track->region_shift++;
    pthread_mutex_init(&track->lock, NULL);
    pthread_mutex_init(&track->commit_lock, NULL);
    pthread_cond_init(&track->answered, NULL);
    demand_init(&track->gathering);
    track->batch = 1;
    for (unsigned i = 0; i < STREAMS; i++)
        track->streams[i].next = UINT64_MAX;
    track->active = g_array_new(FALSE, FALSE, sizeof(ActiveRegion));
    track->doubtful = g_ptr_array_new_with_free_func(g_free);
    return track;
}

void track_free(DiskTrack *track)
{
    if (track == NULL)
        return;
    g_array_unref(track->active);
    g_ptr_array_unref(track->doubtful);
    g_array_unref(track->gathering.regions);
    g_array_unref(track->gathering.ranges);
    pthread_mutex_destroy(&track->lock);
    pthread_mutex_destroy(&track->commit_lock);
    pthread_cond_destroy(&track->answered);
    g_ptr_array_unref(track->discarded);
    free((void *)track->region);
    g_free(track->set);
    g_free(track);
}

void track_lock(DiskTrack *track)
{
    pthread_mutex_lock(&track->commit_lock);
}

void track_unlock(DiskTrack *track)
{
    pthread_mutex_unlock(&track->commit_lock);
}

/* The first `regions` stay. The array does, too: it is stored already, and must not fail now. */
static void drop_regions(DiskTrack *track, uint64_t regions)
{
    for (guint i = track->active->len; i > 0; i--) {
        if (g_array_index(track->active, ActiveRegion, i - 1).region >= regions)
            g_array_remove_index_fast(track->active, i - 1);
    }
    track_dismiss(track);
    track->regions = regions;
}

bool track_size_regions(DiskTrack *track, uint64_t size)
{
    uint64_t regions = bitmap_blocks(size, track->region_shift);
    if (track->region && regions <= track->regions) {
        drop_regions(track, regions);
        return true;
    }
    _Atomic uint8_t *region = calloc(regions + 1, sizeof *region);
    if (region == NULL)
        return false;
    for (uint64_t i = 0; i < MIN(regions, track->regions); i++) {
        uint8_t state = atomic_load(&track->region[i]);
        if (state)
            atomic_init(&region[i], state);
    }
    free((void *)track->region);
    track->region = region;
    track->regions = regions;
    return true;
}

void track_rearm(DiskTrack *track)
{
    GPtrArray *bitmaps = track->disk->bitmaps;
    bool trusted = !atomic_load(&track->distrusted) && track->marked;
    bool armed = bitmaps->len ? trusted : !atomic_load(&track->exposed);
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->bits && !bitmap->meta.recording && !bitmap->meta.missed_writes)
            armed = false;
    }
    atomic_store(&track->armed, armed);
}

void track_freeze(DiskTrack *track)
{
    track_lock(track);
    track->frozen = true;
    track_unlock(track);
}

void track_thaw(DiskTrack *track)
{
    track_lock(track);
    track->frozen = false;
    track_rearm(track);
    track_unlock(track);
    store_wake(track->store);
}

void track_stored_sequence(DiskTrack *track, int64_t sequence)
{
    track->sequence = sequence;
    track->marked = true;
    track->clean = false;
    atomic_store(&track->page.header->sequence, (uint64_t)sequence);
}

/* --- the record set --- */

/* A map that could not grow with the disk stays as short as it was. */
static bool is_mapped(const DiskTrack *track)
{
    return track->page.map &&
           (track->page.map_size >= track->regions || fault("short-map-trusted"));
}

void track_set_recorders(DiskTrack *track, const Recorder *extra, unsigned count)
{
    GPtrArray *bitmaps = track->disk->bitmaps;
    RecordSet *set = g_malloc0(sizeof *set + (bitmaps->len + count) * sizeof(Recorder));
    set->watched = count > 0;
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->bits == NULL)
            continue;
        set->watched = true;
        if (!bitmap->meta.recording)
            continue;
        Recorder *recorder = &set->recorders[set->count++];
        *recorder = (Recorder){.bits = bitmap->bits, .shift = bitmap->shift};
        switch (bitmap->meta.durability) {
        case DURABILITY_PROCESS:
            /* Without a map of all of the disk to rely on it is kept like the first kind. */
            if (is_mapped(track)) {
                set->mapped = true;
                break;
            }
            /* fall through */
        case DURABILITY_POWER:
            recorder->stored = bitmap->stored;
            set->durable = true;
            break;
        case DURABILITY_NONE:
            break;
        }
    }
    for (unsigned i = 0; i < count; i++)
        set->recorders[set->count++] = extra[i];
    g_free(track->set);
    track->set = set;
    pthread_mutex_lock(&track->lock);
    g_ptr_array_set_size(track->discarded, 0);
    pthread_mutex_unlock(&track->lock);
}

void track_discard(DiskTrack *track, Bits *bits)
{
    pthread_mutex_lock(&track->lock);
    g_ptr_array_add(track->discarded, bits);
    pthread_mutex_unlock(&track->lock);
}

/* --- asking --- */

/* lock held. */
static void want_region(DiskTrack *track, uint64_t region, bool *ret_new)
{
    if (region >= track->regions ||
        (atomic_load(track_region(track, region)) & (REGION_DURABLE | REGION_WANTED)))
        return;
    atomic_fetch_or(track_region(track, region), REGION_WANTED);
    g_array_append_val(track->gathering.regions, region);
    *ret_new = true;
}

/* lock held: regions from `next` on for a stream that has come so far; the first of them asks for
 * more when it is reached. */
static void read_ahead(DiskTrack *track, Stream *stream, uint64_t next, bool *ret_new)
{
    uint32_t most = MIN(track->store->options.read_ahead, track->store->options.max_intents / 8);
    stream->window = MIN(MAX(stream->window * 2, 1), most);
    for (uint32_t i = 0; i < stream->window; i++)
        want_region(track, next + i, ret_new);
    if (stream->window > 0 && next < track->regions)
        atomic_fetch_or(track_region(track, next), REGION_AHEAD);
    stream->next = next + stream->window;
}

/* lock held: a write needs `region`. Is it where a stream is expected? */
static void follow_stream(DiskTrack *track, uint64_t region, bool *ret_new)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        Stream *stream = &track->streams[i];
        if (stream->next == region) {
            read_ahead(track, stream, region + 1, ret_new);
            return;
        }
        if (region < stream->next && stream->next - region <= stream->window)
            return; /* it has come to what was asked for, and is not there yet */
    }
    track->streams[track->oldest_stream] = (Stream){.next = region + 1};
    track->oldest_stream = (track->oldest_stream + 1) % STREAMS;
}

/* The first write to a region that was given ahead: it alone, once a region, takes the lock though
 * it has nothing to wait for. */
static void reach_ahead(DiskTrack *track, uint64_t region)
{
    bool new = false;
    pthread_mutex_lock(&track->lock);
    if (atomic_fetch_and(track_region(track, region), (uint8_t)~REGION_AHEAD) & REGION_AHEAD) {
        for (unsigned i = 0; i < STREAMS; i++) {
            Stream *stream = &track->streams[i];
            if (region < stream->next && stream->next - region <= stream->window)
                read_ahead(track, stream, stream->next, &new);
        }
    }
    pthread_mutex_unlock(&track->lock);
    if (new)
        store_wake(track->store);
}

/* Whether [offset, end) is stored as dirty wherever it must be. */
static bool is_stored(DiskTrack *track, uint64_t offset, uint64_t end)
{
    const RecordSet *set = track->set;
    if (atomic_load(&track->distrusted))
        return false;
    for (unsigned i = 0; i < set->count; i++) {
        const Recorder *recorder = &set->recorders[i];
        if (recorder->stored && !bits_all_set(recorder->stored, offset >> recorder->shift,
                                              ((end - 1) >> recorder->shift) + 1))
            return false;
        if (fault("looks-at-one-bitmap"))
            break;
    }
    return true;
}

/* Whether the part of [offset, end) in a region without a durable intent is. */
static bool part_is_stored(DiskTrack *track, uint64_t region, uint64_t offset, uint64_t end)
{
    uint64_t start = region << track->region_shift;
    return is_stored(track, MAX(start, offset),
                     MIN(start + (UINT64_C(1) << track->region_shift), end));
}

/* Whether the part of [offset, end) in the region has its record in the store. */
static bool is_recorded(DiskTrack *track, uint64_t region, uint64_t offset, uint64_t end)
{
    uint8_t state = atomic_load(track_region(track, region));
    if (!(state & REGION_DURABLE))
        return part_is_stored(track, region, offset, end);
    if (!(state & REGION_TOUCHED))
        atomic_fetch_or(track_region(track, region), REGION_TOUCHED);
    if (state & REGION_AHEAD)
        reach_ahead(track, region);
    return true;
}

/* Puts what is missing for [offset, end) on the list. The ticket is the batch that brings it. */
static uint64_t ask(DiskTrack *track, uint64_t offset, uint64_t end)
{
    uint64_t first = offset >> track->region_shift, last = (end - 1) >> track->region_shift;
    bool new = false;
    pthread_mutex_lock(&track->lock);
    if (!atomic_load(&track->armed) && !track->taken_marks && !track->gathering.marks)
        track->gathering.marks = new = true;
    if (track->set->durable) {
        if (last - first >= MIN(WIDE_REGIONS, track->store->options.max_intents / 4)) {
            TrackRange range = {offset, end};
            g_array_append_val(track->gathering.ranges, range);
            new = true;
        } else {
            for (uint64_t region = first; region <= last; region++) {
                if (!(atomic_load(track_region(track, region)) & REGION_DURABLE) &&
                    !part_is_stored(track, region, offset, end)) {
                    want_region(track, region, &new);
                    follow_stream(track, region, &new);
                }
            }
        }
    }
    /* What was wanted before is either in the list or being committed. */
    bool listed = new || track->gathering.marks || track->gathering.regions->len ||
                  track->gathering.ranges->len;
    uint64_t ticket = listed ? track->batch : track->batch - 1;
    pthread_mutex_unlock(&track->lock);
    if (new)
        store_wake(track->store);
    return ticket;
}

static void set_bits(const RecordSet *set, uint64_t offset, uint64_t end)
{
    for (unsigned i = 0; i < set->count; i++) {
        const Recorder *recorder = &set->recorders[i];
        uint64_t first = offset >> recorder->shift, last = (end - 1) >> recorder->shift;
        if (first == last)
            bits_set_one(recorder->bits, first);
        else
            bits_set(recorder->bits, first,
                     fault("end-rounded-down") ? end >> recorder->shift : last + 1);
    }
}

static void map_regions(DiskTrack *track, uint64_t first, uint64_t last)
{
    for (uint64_t region = first; region <= last; region++) {
        if (atomic_load(&track->page.map[region]) != PAGE_REGION_WRITTEN)
            atomic_store(&track->page.map[region], PAGE_REGION_WRITTEN);
    }
}

int track_admit(DiskTrack *track, uint64_t offset, uint64_t end, uint64_t *ret_ticket)
{
    const RecordSet *set = track->set;
    if (!set->watched && (!atomic_load(&track->exposed) || fault("doubt-not-waited-for")))
        return 0;
    if (!fault("bits-after-look"))
        set_bits(set, offset, end);
    bool recorded = atomic_load(&track->armed);
    uint64_t first = offset >> track->region_shift, last = (end - 1) >> track->region_shift;
    for (uint64_t region = first; recorded && set->durable && region <= last; region++)
        recorded = is_recorded(track, region, offset, end);
    if (fault("bits-after-look"))
        set_bits(set, offset, end);
    if (recorded) {
        if (set->mapped && !fault("process-map-unmarked"))
            map_regions(track, first, last);
        return 0;
    }
    if (atomic_load(&track->failing))
        return -EIO;
    *ret_ticket = ask(track, offset, end);
    return fault("write-before-intent") ? 0 : -EAGAIN;
}

/* --- waiting --- */

void track_wait(DiskTrack *track, uint64_t ticket)
{
    pthread_mutex_lock(&track->lock);
    while (track->done < ticket)
        pthread_cond_wait(&track->answered, &track->lock);
    pthread_mutex_unlock(&track->lock);
}

bool track_notify(DiskTrack *track, uint64_t ticket, DiskWaiter *waiter)
{
    pthread_mutex_lock(&track->lock);
    bool waits = track->done < ticket;
    if (waits) {
        /* One that was taken and put back is part of what is gathered now. */
        DiskWaiter **list =
            ticket == track->taken ? &track->taken_waiters : &track->gathering.waiters;
        waiter->next = *list;
        *list = waiter;
    }
    pthread_mutex_unlock(&track->lock);
    return waits;
}

void track_answer(DiskTrack *track, uint64_t batch)
{
    pthread_mutex_lock(&track->lock);
    DiskWaiter *waiters = track->taken_waiters;
    track->taken_waiters = NULL;
    track->taken = 0;
    track->taken_marks = false;
    track->done = MAX(track->done, batch);
    pthread_cond_broadcast(&track->answered);
    pthread_mutex_unlock(&track->lock);
    disk_waiters_run(waiters);
}

void track_write_begins(DiskTrack *track)
{
    if (track->set->watched)
        disk_page_touch(&track->page, false);
}

void track_write_ended(DiskTrack *track)
{
    if (track->set->watched)
        disk_page_touch(&track->page, true);
}
