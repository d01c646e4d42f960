/* A dirty bitmap of a disk, as others see it: a stable object whose bits, state and generation
 * change under it. Made and changed by disk.h alone. Reference-counted; all calls are thread-safe
 * and do not block on a disk. What clients ask for while they transfer (is it offered, extents)
 * takes no lock and waits for nobody, whatever is being done to the bitmap. */
#ifndef STORAGE_BITMAP_H
#define STORAGE_BITMAP_H

#include "storage/extents.h"
#include <glib.h>

typedef struct Bitmap Bitmap;

typedef enum {
    BITMAP_RECORDING, /* every write since its point in time is in it */
    BITMAP_DISABLED,  /* complete up to the moment it was disabled */
    BITMAP_INVALID,   /* the promise cannot be kept: see `reason`; never offered to clients */
    BITMAP_RECOVERED, /* complete, and some blocks are reported dirty because of an unclean stop;
                         `recording` says which of the first two it is otherwise */
} BitmapState;

/* What the promise survives. */
typedef enum {
    DURABILITY_POWER,   /* anything, power loss included: the default */
    DURABILITY_PROCESS, /* the end of the process; after a reboot without a clean stop: invalid */
    DURABILITY_NONE,    /* a clean stop only: otherwise invalid */
} BitmapDurability;

/* When changes that others made to the disk are noticed, so that the bitmap becomes invalid. */
typedef enum {
    BITMAP_WATCH_FULL, /* whenever it was not served */
    BITMAP_WATCH_BOOT, /* a block device: not when the machine was booted in between */
} BitmapWatch;

typedef struct {
    char *name;
    char *generation;     /* UUID */
    uint32_t granularity; /* bytes */
    BitmapState state;
    char *reason; /* of BITMAP_INVALID, else NULL */
    bool recording;
    bool missed_writes;           /* it was disabled while writes happened */
    uint64_t dirty_bytes;         /* the last block counts as far as the disk goes */
    uint64_t over_reported_bytes; /* dirty by recovery alone, at most */
    BitmapDurability durability;
    BitmapWatch watch;
} BitmapInfo;

Bitmap *bitmap_ref(Bitmap *bitmap);
void bitmap_unref(Bitmap *bitmap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bitmap, bitmap_unref)
const char *bitmap_name(const Bitmap *bitmap);

void bitmap_get_info(Bitmap *bitmap, BitmapInfo *ret_info);
void bitmap_info_clear(BitmapInfo *info);
/* True while clients may be offered it: not invalid, not removed. */
bool bitmap_is_offered(Bitmap *bitmap);

/* Appends extents with EXTENT_DIRTY or 0 over [offset, +length), inside the disk. -EIO when the
 * bitmap is invalid or removed: a client must never read "clean" from it. One that becomes so, or
 * is cleared, after the call has begun is answered as it was before. Of more than 2^32 blocks the
 * first so many are looked at. */
int bitmap_extents(Bitmap *bitmap, uint64_t offset, uint64_t length, ExtentList *list);

/* The same for who makes something else of it than a list: the places where the bitmap changes from
 * dirty to clean or back, in blocks from the one that offset is in. Owned by one thread. */
typedef struct {
    uint64_t offset, stop; /* what is walked through, in bytes */
    bool dirty;            /* as it begins */
    unsigned shift;
    uint64_t first, next, end; /* blocks */
    bool value;
    struct Bits *bits; /* as they were shown when it began: a reference */
} BitmapWalk;

/* length > 0. 0 or -EIO, as above; after 0 bitmap_walk_end() is called. */
int bitmap_walk_begin(BitmapWalk *walk, Bitmap *bitmap, uint64_t offset, uint64_t length);
/* The next changes, max (> 0) at most; fewer: there is no other before `stop`. What was found
 * counts, whatever becomes dirty while it is found. */
size_t bitmap_walk(BitmapWalk *walk, uint32_t *ret_changes, size_t max);
void bitmap_walk_end(BitmapWalk *walk);

/* Where on the disk a change is. */
static inline uint64_t bitmap_walk_place(const BitmapWalk *walk, uint32_t change)
{
    return (walk->first + change) << walk->shift;
}

#endif
