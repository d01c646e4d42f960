/* Inside the tracking of a disk: for storage/track*.c and disk*.c. */
#ifndef STORAGE_TRACK_PRIVATE_H
#define STORAGE_TRACK_PRIVATE_H

#include "storage/disk_private.h"
#include "storage/store_track.h"
#include "storage/track.h"

/* Bits of a region's byte. */
#define REGION_DURABLE                                                                             \
    0x01u                    /* its intent is in the store, and will be until this is taken away   \
                              */
#define REGION_TOUCHED 0x02u /* written since the store thread last looked */
#define REGION_AHEAD                                                                               \
    0x04u                   /* who writes here first asks for what a sequential stream needs next  \
                             */
#define REGION_WANTED 0x08u /* asked for; DiskTrack.lock */

/* All that is recording. */
typedef struct {
    bool watched; /* there is a bitmap whose promise is to be kept */
    bool durable; /* some `stored` is not NULL */
    bool mapped;  /* some bitmap relies on the page's map */
    unsigned count;
    Recorder recorders[];
} RecordSet;

/* What writers wait for. */
typedef struct {
    GArray *regions; /* of uint64_t: want an intent */
    GArray *ranges;  /* of TrackRange: too large for intents; their bits are to be stored */
    bool marks;      /* that the disk is not clean, that disabled bitmaps miss writes */
    DiskWaiter *waiters;
} Demand;

typedef struct {
    uint64_t offset, end; /* bytes */
} TrackRange;

/* A region with an intent. */
typedef struct {
    uint64_t region;
    unsigned quiet; /* looks of the store thread since it was written */
} ActiveRegion;

#define STREAMS 8
typedef struct {
    uint64_t next;   /* the region after the last that was given */
    uint32_t window; /* regions last given ahead */
} Stream;

struct DiskTrack {
    Disk *disk;
    Store *store;
    DiskPage page;

    /* Inside the gate to read, gate closed to replace. */
    RecordSet *set;
    _Atomic uint8_t *region; /* a byte of REGION_ each */
    uint64_t regions;
    unsigned region_shift; /* constant while the disk is open */
    GPtrArray *discarded;  /* of Bits; `lock` */

    _Atomic bool armed;      /* the marks are durable */
    _Atomic bool distrusted; /* what `stored` says may be undone by a commit that failed */
    _Atomic bool exposed;    /* nothing durable speaks against the bitmaps of `doubtful` */
    _Atomic bool failing;    /* the store has failed for long: writes need not wait */

    pthread_mutex_t lock;
    pthread_cond_t answered;
    Demand gathering;          /* of batch number `batch` */
    uint64_t taken;            /* number of the batch that the store thread is at, 0: none */
    DiskWaiter *taken_waiters; /* of that */
    bool taken_marks;
    uint64_t batch, done; /* numbers of batches, from 1 */
    Stream streams[STREAMS];
    unsigned oldest_stream;

    pthread_mutex_t commit_lock; /* guards what follows, and the disk's bitmaps against changes */
    int64_t id;                  /* row, 0: none yet */
    bool loaded;                 /* what follows says how the disk is */
    bool gone;                   /* the row was deleted */
    bool frozen;                 /* a change is being stored: hands off until it has finished */
    _Atomic bool doubt;          /* a COMMIT about this disk failed */
    GPtrArray *doubtful;         /* generations that it would have given to bitmaps */
    bool watched;                /* there is a row in `watch` */
    bool marked;                 /* ... that says not clean, stored since the disk was opened */
    bool clean;                  /* ... that says clean */
    bool invalid_unsaved;        /* invalid in the file of invalidations, not yet in the database */
    int64_t sequence;
    int64_t marked_sequence; /* that the file was last to be marked with; the store thread's */
    GArray *active;          /* of ActiveRegion */
    guint hand;              /* where the search for a victim goes on */
};

/* commit_lock held: whether writes may begin at once, as far as marks are concerned. */
void track_rearm(DiskTrack *track);

/* Between these the store thread leaves the disk alone: what a change stores is not yet what
 * memory says. On the store thread; after which memory agrees, on any. */
void track_freeze(DiskTrack *track);
void track_thaw(DiskTrack *track);
/* commit_lock held: the watch's row says not clean, and this. */
void track_stored_sequence(DiskTrack *track, int64_t sequence);

/* commit_lock held, gate closed: as many regions as the disk's size wants. Intents stay, but those
 * of regions that are gone, and who waits tries again. False: no memory, which fewer do not need.
 */
bool track_size_regions(DiskTrack *track, uint64_t size);

/* The byte of a region. An index from before the disk shrank would be into memory that is somebody
 * else's. */
static inline _Atomic uint8_t *track_region(DiskTrack *track, uint64_t region)
{
    g_assert(region < track->regions);
    return &track->region[region];
}

/* commit_lock held: ends the batch that gathers with nothing done for it. */
void track_dismiss(DiskTrack *track);
/* Ends batch number `batch` and all before: who waits for them tries again. */
void track_answer(DiskTrack *track, uint64_t batch);

/* --- store thread --- */

void track_attach(DiskTrack *track); /* from any thread: now the store thread knows it */
void track_detach(DiskTrack *track); /* ... and now no longer */
/* Commits what all disks' writers wait for. */
void track_commit_demands(Store *store);
/* The background's turn: retires what is quiet. */
void track_tick(Store *store);
/* Tries for the disks of which writers were told to give up. */
void track_probe(Store *store);
/* The database was rebuilt: it holds exactly what was committed. */
void track_rebuilt(Store *store);
/* For store_txn_on_doubt: a transaction of the track's own, and one that changes the bitmaps. */
void track_doubt(gpointer track);
void track_doubt_change(gpointer track);
/* Store thread, with track_doubt_change: what would have been a bitmap's. */
void track_doubt_generation(DiskTrack *track, const char *generation);
/* Commit lock held, gate closed, before writes go on that are not recorded: should a COMMIT in
 * doubt have happened after all, what it would bring is invalid. False: nothing durable says so,
 * and writes wait until it does or the doubt is over. */
bool track_disown(DiskTrack *track);
/* Retires all that nobody has written since the last look. */
bool track_retire_all(DiskTrack *track);

/* --- open and close: track_load.c --- */

/* Opens the disk's page, reads what the store has about the disk, and recovers what needs it.
 * row: see disk_open. new: the store has nothing about it. Nobody else knows the disk yet. */
bool track_load(DiskTrack *track, int64_t row, bool new, GError **error);
/* Gate closed for good, data synced: stores all exactly, then that the disk is clean. */
bool track_store_clean(DiskTrack *track, GError **error);
/* Commit lock held, gate closed: the map that the page must have for bitmaps of durability
 * process. Without one those are kept by intents. */
void track_want_map(DiskTrack *track);

#endif
