/* Inside a bitmap: for storage/bitmap.c, disk*.c and track*.c alone.
 *
 * `lock` guards every field below it against the control plane's readers (info). What changes the
 * pointers `bits` and `stored` holds in addition the disk's closed gate and its track's lock, so
 * that writers inside the gate, and the store thread under the track's lock, may use them without.
 *
 * BLOCK_STATUS is neither inside the gate, which may stay closed for as long as a commit takes, nor
 * under a lock. It takes a reference to the bits that are `shown`, and reads those to the end. Who
 * replaces them takes them out of `shown` first, then waits until nobody is `looking`: whoever
 * looked before has its reference by then, whoever looks later finds what is shown now. One looks
 * for a load and an addition, never for longer, so this is no lock for either side. */
#ifndef STORAGE_BITMAP_PRIVATE_H
#define STORAGE_BITMAP_PRIVATE_H

#include "storage/bitmap.h"
#include "storage/bitmap_bits.h"
#include <pthread.h>
#include <stdatomic.h>

#define BITMAP_GRANULARITY_MIN     (UINT32_C(1) << 9)
#define BITMAP_GRANULARITY_MAX     (UINT32_C(1) << 31)
#define BITMAP_GRANULARITY_DEFAULT (UINT32_C(1) << 16)

/* What is known of a bitmap besides its bits: a row of the store. */
typedef struct {
    char *generation;
    bool recording;
    bool missed_writes;
    BitmapDurability durability;
    uint64_t over_reported; /* bytes */
    char *invalid_reason;   /* NULL: valid */
} BitmapMeta;

struct Bitmap {
    _Atomic unsigned references;
    char *name;
    unsigned shift; /* granularity is 1 << shift */
    BitmapWatch watch;
    int64_t id; /* row in the store, 0 before it has one; the store thread's */

    _Atomic(Bits *) shown; /* `bits`; NULL when invalid or removed, too */
    _Atomic unsigned looking;

    pthread_rwlock_t lock;
    BitmapMeta meta;
    bool removed;    /* bitmap_remove() sets it */
    bool unreported; /* has become invalid, and nobody has been told */
    uint64_t size;   /* of the disk, bytes */
    Bits *bits;      /* NULL when invalid; bitmap_replace_bits() sets it */
    Bits *stored;    /* subset of bits: what the database holds for certain */
};

Bitmap *bitmap_new(const char *name, unsigned shift, uint64_t size);
/* lock held, or the bitmap is nobody else's yet. Takes over bits; what was there goes when its last
 * reader has. */
void bitmap_replace_bits(Bitmap *bitmap, Bits *bits);
/* From here on it is not offered any more. Takes the lock. */
void bitmap_remove(Bitmap *bitmap);
void bitmap_meta_clear(BitmapMeta *meta);
void bitmap_meta_copy(BitmapMeta *target, const BitmapMeta *source); /* target is cleared first */
/* Info from parts; bits NULL counts as none. */
void bitmap_fill_info(BitmapInfo *info, const char *name, unsigned shift, uint64_t size,
                      const BitmapMeta *meta, const Bits *bits, BitmapWatch watch);
uint64_t bitmap_blocks(uint64_t size, unsigned shift);
/* Bytes of `count` set bits, of which the last block of the disk may be one. */
uint64_t bitmap_dirty_bytes(const Bits *bits, uint64_t size, unsigned shift);

#endif
