/* The store thread's side of track.c: group commits of what writers wait for, and retirement.
 *
 * One transaction serves all disks that want something. For each it takes the list of what is
 * wanted, takes DURABLE away from regions that have to make room or have gone quiet, reads their
 * bits, and commits: marks, bits, deleted and new intents. Only then does memory say so. */
#include "storage/fault.h"
#include "storage/store_invalid.h"
#include "storage/store_keeper.h"
#include "storage/track_private.h"
#include <string.h>

/* Regions of a disk retired in one transaction of the background's: those who wait for an intent
 * wait for it to end. */
#define RETIRE_AT_ONCE 1024

typedef struct {
    Bitmap *bitmap;
    uint64_t page;
    uint64_t *words; /* NULL: all set */
} StoredPage;

/* One disk's part of a transaction. */
typedef struct {
    DiskTrack *track; /* commit_lock held */
    uint64_t batch;   /* number; 0: nothing was taken from writers */
    Demand demand;
    bool marks;
    GArray *added;   /* of uint64_t regions */
    GArray *victims; /* of uint64_t regions: retiring */
    GArray *mapped;  /* of uint64_t regions of the page's map: retiring */
    GArray *pages;   /* of StoredPage */
    int64_t sequence;
    bool gone;
} Part;

static void part_init(Part *part, DiskTrack *track)
{
    *part = (Part){
        .track = track,
        .added = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
        .victims = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
        .mapped = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
        .pages = g_array_new(FALSE, FALSE, sizeof(StoredPage)),
    };
}

static void part_clear(gpointer data)
{
    Part *part = data;
    for (guint i = 0; i < part->pages->len; i++)
        g_free(g_array_index(part->pages, StoredPage, i).words);
    g_array_unref(part->added);
    g_array_unref(part->victims);
    g_array_unref(part->mapped);
    g_array_unref(part->pages);
    g_clear_pointer(&part->demand.regions, g_array_unref);
    g_clear_pointer(&part->demand.ranges, g_array_unref);
}

static bool is_waiting(DiskTrack *track)
{
    const Demand *demand = &track->gathering;
    return demand->marks || demand->regions->len || demand->ranges->len;
}

/* Takes the list that writers have gathered; they begin the next. */
static void take_demand(Part *part)
{
    DiskTrack *track = part->track;
    pthread_mutex_lock(&track->lock);
    if (is_waiting(track)) {
        part->demand = track->gathering;
        part->marks = part->demand.marks;
        part->batch = track->batch++;
        track->gathering = (Demand){
            .regions = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
            .ranges = g_array_new(FALSE, FALSE, sizeof(TrackRange)),
        };
        track->taken = part->batch;
        track->taken_waiters = g_steal_pointer(&part->demand.waiters);
        track->taken_marks = part->marks;
    }
    pthread_mutex_unlock(&track->lock);
}

/* Puts it back: the next batch is this one and what has been gathered since. False: there is
 * nothing to be tried again, for which those who wait might wait for ever. */
static bool return_demand(Part *part)
{
    DiskTrack *track = part->track;
    pthread_mutex_lock(&track->lock);
    Demand *demand = &track->gathering;
    g_array_append_vals(demand->regions, part->demand.regions->data, part->demand.regions->len);
    g_array_append_vals(demand->ranges, part->demand.ranges->data, part->demand.ranges->len);
    demand->marks = demand->marks || part->marks;
    DiskWaiter **end = &demand->waiters;
    while (*end)
        end = &(*end)->next;
    *end = g_steal_pointer(&track->taken_waiters);
    track->taken = 0;
    track->taken_marks = false;
    bool again = is_waiting(track);
    pthread_mutex_unlock(&track->lock);
    return again;
}

void track_dismiss(DiskTrack *track)
{
    pthread_mutex_lock(&track->lock);
    Demand *demand = &track->gathering;
    for (guint i = 0; i < demand->regions->len; i++)
        atomic_fetch_and(track_region(track, g_array_index(demand->regions, uint64_t, i)),
                         (uint8_t)~REGION_WANTED);
    g_array_set_size(demand->regions, 0);
    g_array_set_size(demand->ranges, 0);
    demand->marks = false;
    track->taken_waiters = g_steal_pointer(&demand->waiters);
    uint64_t batch = track->taken = track->batch++;
    pthread_mutex_unlock(&track->lock);
    track_answer(track, batch);
}

/* --- victims --- */

static void make_victim(Part *part, guint index)
{
    DiskTrack *track = part->track;
    uint64_t region = g_array_index(track->active, ActiveRegion, index).region;
    g_array_remove_index_fast(track->active, index);
    if (!fault("retired-stays-durable"))
        atomic_fetch_and(track_region(track, region), (uint8_t)~REGION_DURABLE);
    g_array_append_val(part->victims, region);
}

/* Room for `count` more: regions not written since the hand came by last. */
static void choose_victims(Part *part, guint count)
{
    DiskTrack *track = part->track;
    guint max = track->store->options.max_intents;
    guint spared = 0;
    while (track->active->len > 0 && track->active->len + count > max) {
        if (track->hand >= track->active->len)
            track->hand = 0;
        uint64_t region = g_array_index(track->active, ActiveRegion, track->hand).region;
        if (spared < track->active->len &&
            (atomic_fetch_and(track_region(track, region), (uint8_t)~REGION_TOUCHED) &
             REGION_TOUCHED)) {
            spared++;
            track->hand++;
            continue;
        }
        make_victim(part, track->hand);
    }
}

static void choose_quiet(Part *part, bool all)
{
    DiskTrack *track = part->track;
    const StoreOptions *options = &track->store->options;
    unsigned looks = options->quiet_seconds / MAX(options->checkpoint_seconds, 1);
    for (guint i = track->active->len; i > 0 && part->victims->len < RETIRE_AT_ONCE; i--) {
        ActiveRegion *active = &g_array_index(track->active, ActiveRegion, i - 1);
        bool touched =
            atomic_fetch_and(track_region(track, active->region), (uint8_t)~REGION_TOUCHED) &
            REGION_TOUCHED;
        active->quiet = touched ? 0 : active->quiet + 1;
        if (all || active->quiet > looks)
            make_victim(part, i - 1);
    }
}

static void choose_mapped(Part *part)
{
    DiskTrack *track = part->track;
    uint64_t size = track->page.map_size;
    for (uint64_t region = 0; region < size; region++) {
        uint8_t state = PAGE_REGION_WRITTEN;
        if (atomic_load(&track->page.map[region]) == PAGE_REGION_WRITTEN &&
            atomic_compare_exchange_strong(&track->page.map[region], &state, PAGE_REGION_RETIRING))
            g_array_append_val(part->mapped, region);
    }
}

/* --- inside the transaction --- */

static gint compare_numbers(gconstpointer a, gconstpointer b)
{
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return one < other ? -1 : one > other;
}

/* The pages of bits of a bitmap over bytes [offset, end). */
static void add_pages(GArray *pages, const Bitmap *bitmap, uint64_t offset, uint64_t end)
{
    end = MIN(end, bitmap->size);
    if (offset >= end)
        return;
    uint64_t first = (offset >> bitmap->shift) >> BITS_PAGE_SHIFT;
    uint64_t last = ((end - 1) >> bitmap->shift) >> BITS_PAGE_SHIFT;
    for (uint64_t page = first; page <= last; page++) {
        if (pages->len == 0 || g_array_index(pages, uint64_t, pages->len - 1) != page)
            g_array_append_val(pages, page);
    }
}

static bool store_page(Part *part, StoreTxn *txn, Bitmap *bitmap, uint64_t page, GError **error)
{
    uint64_t words[BITS_WORDS], old[BITS_WORDS];
    BitsPageKind kind = bits_page_get(bitmap->bits, page, words);
    if (bits_page_get(bitmap->stored, page, old) == kind &&
        (kind != BITS_PAGE_MIXED || memcmp(words, old, sizeof words) == 0))
        return true;
    StoredPage stored = {.bitmap = bitmap, .page = page};
    if (kind == BITS_PAGE_MIXED)
        stored.words = g_memdup2(words, sizeof words);
    g_array_append_val(part->pages, stored);
    return store_put_page(txn, bitmap->id, page, kind, words, error);
}

/* The bits of everything that retires, of all bitmaps that have them in memory alone. */
static bool store_pages(Part *part, StoreTxn *txn, GError **error)
{
    DiskTrack *track = part->track;
    GPtrArray *bitmaps = track->disk->bitmaps;
    unsigned shift = track->region_shift;
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->bits == NULL || !bitmap->meta.recording)
            continue;
        g_autoptr(GArray) pages = g_array_new(FALSE, FALSE, sizeof(uint64_t));
        for (guint j = 0; j < part->victims->len; j++) {
            uint64_t region = g_array_index(part->victims, uint64_t, j);
            add_pages(pages, bitmap, region << shift, (region + 1) << shift);
        }
        for (guint j = 0; j < part->mapped->len; j++) {
            uint64_t region = g_array_index(part->mapped, uint64_t, j);
            add_pages(pages, bitmap, region << shift, (region + 1) << shift);
        }
        for (guint j = 0; part->demand.ranges && j < part->demand.ranges->len; j++) {
            TrackRange *range = &g_array_index(part->demand.ranges, TrackRange, j);
            add_pages(pages, bitmap, range->offset, range->end);
        }
        g_array_sort(pages, compare_numbers);
        for (guint j = 0; j < pages->len; j++) {
            uint64_t page = g_array_index(pages, uint64_t, j);
            if ((j == 0 || page != g_array_index(pages, uint64_t, j - 1)) &&
                !store_page(part, txn, bitmap, page, error))
                return false;
        }
    }
    return true;
}

static bool store_invalid(DiskTrack *track, StoreTxn *txn, GError **error)
{
    GPtrArray *bitmaps = track->disk->bitmaps;
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->meta.invalid_reason &&
            (!store_put_bitmap(txn, track->id, bitmap->id, bitmap->name, bitmap->shift,
                               &bitmap->meta, &bitmap->id, error) ||
             !store_put_bits(txn, bitmap->id, NULL, NULL, error)))
            return false;
    }
    return true;
}

static bool store_part(Part *part, StoreTxn *txn, GError **error)
{
    DiskTrack *track = part->track;
    GError *local = NULL;
    if (!track->watched)
        return true; /* its writers wait for the end of a doubt, and for nothing in the store */
    part->sequence = track->sequence + 1;
    store_txn_on_doubt(txn, track_doubt, track);
    if (!store_put_sequence(txn, track->id, part->sequence, &local)) {
        part->gone = g_error_matches(local, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND);
        if (part->gone)
            g_error_free(local); /* it was removed under us: nothing of it needs keeping */
        else
            g_propagate_error(error, local);
        return part->gone;
    }
    if (track->invalid_unsaved && !store_invalid(track, txn, error))
        return false;
    if (part->marks && !fault("missed-writes-lost") &&
        !store_put_missed_writes(txn, track->id, error))
        return false;
    if (!fault("retire-without-bits") && !store_pages(part, txn, error))
        return false;
    for (guint i = 0; i < part->victims->len; i++) {
        uint64_t region = g_array_index(part->victims, uint64_t, i);
        if (!store_del_intent(txn, track->id, region << track->region_shift, error))
            return false;
    }
    for (guint i = 0; i < part->added->len; i++) {
        uint64_t region = g_array_index(part->added, uint64_t, i);
        if (!store_put_intent(txn, track->id, region << track->region_shift,
                              UINT64_C(1) << track->region_shift, error))
            return false;
    }
    return true;
}

static bool store_parts(StoreTxn *txn, gpointer data, GError **error)
{
    GArray *parts = data;
    for (guint i = 0; i < parts->len; i++) {
        if (!store_part(&g_array_index(parts, Part, i), txn, error))
            return false;
    }
    return true;
}

/* --- after the transaction --- */

/* What made bitmaps invalid is in the database now; and where not all of them could be given up, so
 * that they stayed good, nothing is. */
static void forget_given_up(DiskTrack *track)
{
    GPtrArray *bitmaps = track->disk->bitmaps;
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        store_invalid_forget(track->store->invalid, bitmap->meta.generation);
    }
    track->invalid_unsaved = false;
}

static void put_in_force(Part *part)
{
    DiskTrack *track = part->track;
    Store *store = track->store;
    if (part->gone)
        track->gone = true;
    for (guint i = 0; i < part->pages->len; i++) {
        StoredPage *page = &g_array_index(part->pages, StoredPage, i);
        bits_page_or(page->bitmap->stored, page->page, page->words);
    }
    for (guint i = 0; i < part->victims->len; i++)
        atomic_fetch_and(track_region(track, g_array_index(part->victims, uint64_t, i)),
                         (uint8_t) ~(REGION_TOUCHED | REGION_AHEAD));
    for (guint i = 0; i < part->mapped->len; i++) {
        uint8_t state = PAGE_REGION_RETIRING;
        atomic_compare_exchange_strong(&track->page.map[g_array_index(part->mapped, uint64_t, i)],
                                       &state, PAGE_REGION_QUIET);
    }
    pthread_mutex_lock(&track->lock);
    for (guint i = 0; i < part->added->len; i++) {
        ActiveRegion active = {.region = g_array_index(part->added, uint64_t, i)};
        g_array_append_val(track->active, active);
        atomic_fetch_or(track_region(track, active.region), REGION_DURABLE | REGION_TOUCHED);
        atomic_fetch_and(track_region(track, active.region), (uint8_t)~REGION_WANTED);
    }
    pthread_mutex_unlock(&track->lock);
    if (part->marks) {
        GPtrArray *bitmaps = track->disk->bitmaps;
        for (guint i = 0; i < bitmaps->len; i++) {
            Bitmap *bitmap = bitmaps->pdata[i];
            pthread_rwlock_wrlock(&bitmap->lock);
            if (!bitmap->meta.recording)
                bitmap->meta.missed_writes = true;
            pthread_rwlock_unlock(&bitmap->lock);
        }
    }
    if (track->invalid_unsaved || atomic_load(&track->failing))
        forget_given_up(track);
    if (track->watched)
        track_stored_sequence(track, part->sequence);
    atomic_store(&track->failing, false);
    track_rearm(track);
    atomic_fetch_add(&store->intents_added, part->added->len);
    atomic_fetch_add(&store->intents_retired, part->victims->len);
    if (part->batch)
        track_answer(track, part->batch);
}

/* It was rolled back, or is in doubt: then the regions are not DURABLE until the database has been
 * rebuilt, which says that they are. */
static void take_back(Part *part, bool give_up)
{
    DiskTrack *track = part->track;
    for (guint i = 0; i < part->victims->len; i++) {
        ActiveRegion active = {.region = g_array_index(part->victims, uint64_t, i)};
        g_array_append_val(track->active, active);
        if (!atomic_load(&track->doubt) || fault("doubtful-intent-counts"))
            atomic_fetch_or(track_region(track, active.region), REGION_DURABLE);
    }
    for (guint i = 0; i < part->mapped->len; i++) {
        uint8_t state = PAGE_REGION_RETIRING;
        atomic_compare_exchange_strong(&track->page.map[g_array_index(part->mapped, uint64_t, i)],
                                       &state, PAGE_REGION_WRITTEN);
    }
    if (part->batch == 0)
        return;
    if (give_up) /* nothing will come of it: writers are told, and ask no more */
        atomic_store(&track->failing, true);
    if (!return_demand(part) || give_up)
        track_dismiss(track);
}

/* Runs the parts as one transaction. */
static bool run_parts(Store *store, GArray *parts)
{
    bool ok = store_run_transaction(store, store_parts, parts, NULL);
    bool give_up = store_note_outcome(store, ok);
    for (guint i = 0; i < parts->len; i++) {
        Part *part = &g_array_index(parts, Part, i);
        if (ok)
            put_in_force(part);
        else
            take_back(part, give_up);
        track_unlock(part->track);
    }
    return ok;
}

/* Which of the wanted regions get an intent now; the rest stays wanted. Of a disk that is not
 * watched any more nothing is stored, so nothing may count as stored. */
static void choose_added(Part *part)
{
    DiskTrack *track = part->track;
    GArray *wanted = part->demand.regions;
    guint kept = 0;
    pthread_mutex_lock(&track->lock);
    for (guint i = 0; i < wanted->len; i++) {
        uint64_t region = g_array_index(wanted, uint64_t, i);
        if (!track->watched || (atomic_load(track_region(track, region)) & REGION_DURABLE)) {
            /* DURABLE: it was to retire when it was asked for, and then did not. */
            atomic_fetch_and(track_region(track, region), (uint8_t)~REGION_WANTED);
        } else if (part->added->len < track->store->options.max_intents) {
            g_array_append_val(part->added, region);
            g_array_index(wanted, uint64_t, kept++) = region;
        } else {
            g_array_append_val(track->gathering.regions, region);
        }
    }
    g_array_set_size(wanted, kept);
    bool more = track->gathering.regions->len > 0;
    pthread_mutex_unlock(&track->lock);
    choose_victims(part, part->added->len);
    if (more)
        store_wake(track->store);
}

void track_commit_demands(Store *store)
{
    g_autoptr(GArray) parts = g_array_new(FALSE, FALSE, sizeof(Part));
    g_array_set_clear_func(parts, part_clear);
    for (guint i = 0; i < store->trackers->len; i++) {
        DiskTrack *track = store->trackers->pdata[i];
        pthread_mutex_lock(&track->lock);
        bool waiting = is_waiting(track);
        pthread_mutex_unlock(&track->lock);
        if (!waiting)
            continue;
        track_lock(track);
        Part part;
        part_init(&part, track);
        if (!track->frozen) /* one that is gone, too: somebody waits for it */
            take_demand(&part);
        if (part.batch == 0) {
            part_clear(&part);
            track_unlock(track);
            continue;
        }
        choose_added(&part);
        g_array_append_val(parts, part);
    }
    if (parts->len)
        run_parts(store, parts);
}

/* Retires what has been quiet, or (all) whatever nobody has written since the last look. */
static bool retire(DiskTrack *track, bool all)
{
    g_autoptr(GArray) parts = g_array_new(FALSE, FALSE, sizeof(Part));
    g_array_set_clear_func(parts, part_clear);
    Part part;
    part_init(&part, track);
    track_lock(track);
    bool probe = atomic_load(&track->failing) || track->invalid_unsaved;
    if (!track->frozen && !track->gone && (track->watched || probe)) {
        if (!atomic_load(&track->doubt) && track->marked) {
            choose_quiet(&part, all);
            choose_mapped(&part);
        }
        if (part.victims->len || part.mapped->len || probe) {
            g_array_append_val(parts, part);
            return run_parts(track->store, parts);
        }
    }
    part_clear(&part);
    track_unlock(track);
    return true;
}

/* Whether the file should be marked with how far the store has come since it last was. */
static bool wants_mark(DiskTrack *track)
{
    track_lock(track);
    bool wants = track->marked && !track->gone && !track->frozen &&
                 track->marked_sequence != track->sequence;
    if (wants)
        track->marked_sequence = track->sequence;
    track_unlock(track);
    return wants;
}

void track_tick(Store *store)
{
    for (guint i = 0; i < store->trackers->len; i++) {
        DiskTrack *track = store->trackers->pdata[i];
        Disk *disk;
        retire(track, false);
        if (store->keeper && wants_mark(track) && (disk = disk_ref_alive(track->disk)))
            store_keeper_mark(store->keeper, disk);
    }
}

void track_probe(Store *store)
{
    for (guint i = 0; i < store->trackers->len; i++) {
        DiskTrack *track = store->trackers->pdata[i];
        if (atomic_load(&track->failing))
            retire(track, false);
    }
}

bool track_retire_all(DiskTrack *track)
{
    bool ok;
    guint before, after;
    do {
        before = track->active->len;
        ok = retire(track, true);
        after = track->active->len;
    } while (ok && after < before && after > 0);
    return ok;
}

/* --- doubt --- */

void track_doubt(gpointer data)
{
    DiskTrack *track = data;
    atomic_store(&track->doubt, true);
}

void track_doubt_change(gpointer data)
{
    DiskTrack *track = data;
    atomic_store(&track->distrusted, true);
    atomic_store(&track->armed, false);
    track_doubt(track);
}

void track_doubt_generation(DiskTrack *track, const char *generation)
{
    track_lock(track);
    g_ptr_array_add(track->doubtful, g_strdup(generation));
    track_unlock(track);
}

bool track_disown(DiskTrack *track)
{
    static const char reason[] = "the state database could not be written when it was added or "
                                 "cleared, and the disk was written all the same";
    bool ok = true;
    for (guint i = 0; ok && i < track->doubtful->len && !fault("doubtful-bitmap-kept"); i++)
        ok = store_invalid_put(track->store->invalid, track->doubtful->pdata[i], reason, NULL);
    atomic_store(&track->exposed, !ok);
    track_rearm(track);
    return ok;
}

static void forget_doubtful(Store *store, GPtrArray *generations)
{
    for (guint i = 0; i < generations->len; i++)
        store_invalid_forget(store->invalid, generations->pdata[i]);
    g_ptr_array_set_size(generations, 0);
}

void track_rebuilt(Store *store)
{
    forget_doubtful(store, store->doubtful);
    for (guint i = 0; i < store->trackers->len; i++) {
        DiskTrack *track = store->trackers->pdata[i];
        track_lock(track);
        for (guint j = 0; j < track->active->len; j++)
            atomic_fetch_or(
                track_region(track, g_array_index(track->active, ActiveRegion, j).region),
                REGION_DURABLE);
        atomic_store(&track->doubt, false);
        atomic_store(&track->distrusted, false);
        atomic_store(&track->exposed, false);
        forget_doubtful(store, track->doubtful);
        track_rearm(track);
        track_unlock(track);
    }
}

/* --- known to the store thread --- */

static void attach(Store *store, gpointer track)
{
    g_ptr_array_add(store->trackers, track);
}

typedef struct {
    DiskTrack *track;
    int64_t id;
} Lookup;

static bool look_up(StoreTxn *txn, gpointer data, GError **error)
{
    Lookup *lookup = data;
    return store_find_disk(txn, lookup->track->disk->name, &lookup->id, error);
}

static gpointer copy_string(gconstpointer string, gpointer data)
{
    return g_strdup(string);
}

/* A disk that was removed leaves no page behind. */
static void detach(Store *store, gpointer data)
{
    DiskTrack *track = data;
    Lookup lookup = {.track = track};
    g_ptr_array_extend(store->doubtful, track->doubtful, copy_string, NULL);
    g_ptr_array_remove_fast(store->trackers, track);
    if (track->watched && !track->clean && store_run_transaction(store, look_up, &lookup, NULL))
        track->gone = lookup.id != track->id; /* a later one may have its name */
}

void track_attach(DiskTrack *track)
{
    store_call(track->store, attach, track);
}

void track_detach(DiskTrack *track)
{
    store_call(track->store, detach, track);
}
