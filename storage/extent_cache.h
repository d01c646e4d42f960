/* What is known of where a disk's data and holes are, chunk by chunk, so that asking a second time
 * does not cost two system calls an extent.
 *
 * It is exact under our own changes at any time: every change of contents calls
 * extent_cache_changed() when it has been made and before it is answered. Whoever asks marks a
 * chunk as known, under a number of its own, before it looks at the file, and what it found counts
 * for as long as that mark is there. So a change that the look may have missed takes the mark away
 * after it was set, and one that does not see the mark was made before the look. A change that was
 * not answered yet may or may not be seen, as ever.
 *
 * Others may write to the file too. So a map compares the file's stamp with that from before the
 * look, and forgets everything where they differ: whose change it was is not told, so a disk that
 * clients write to all the time is asked as if there were no cache, and so is a file whose times
 * cannot be relied on. And a read has zeroes sent for a hole only when the file says so again.
 * What is left: a map may miss what others write by one call that takes longer than a stamp needs
 * to count (two seconds), goes to room that is allocated already, and was in the middle of that
 * when its chunk was looked at; and what they store through a mapping in a page of a tmpfs that
 * they had only read until then.
 *
 * Thread-safe. Changes take no lock; while nobody has asked they cost one atomic addition. */
#ifndef STORAGE_EXTENT_CACHE_H
#define STORAGE_EXTENT_CACHE_H

#include "storage/backend.h"
#include <pthread.h>
#include <stdatomic.h>

/* Together they cover the disk as it was when it was first asked; what has grown beyond is asked of
 * the file. */
#define EXTENT_CHUNKS 4096u

typedef struct {
    uint64_t end; /* on the disk */
    uint32_t flags;
} KnownExtent;

typedef struct {
    KnownExtent *items;
    size_t count;
    uint64_t mark; /* under which they were found */
} ExtentChunk;

typedef struct {
    unsigned shift;
    _Atomic uint64_t marks[EXTENT_CHUNKS]; /* 0: not known */
    /* under the cache's lock */
    ExtentChunk chunks[EXTENT_CHUNKS];
    BackendStamp stamp; /* the file's, from before all looks that count */
} ExtentTable;

typedef struct {
    _Atomic(ExtentTable *) table; /* NULL until somebody asks for much; then it stays */
    _Atomic uint64_t last_mark;
    _Atomic uint64_t changes;
    pthread_mutex_t lock;
} ExtentCache;

void extent_cache_init(ExtentCache *cache);
void extent_cache_destroy(ExtentCache *cache);

/* As the backend's `extents`, into an empty list. */
int extent_cache_extents(ExtentCache *cache, Backend *backend, uint64_t offset, uint64_t length,
                         ExtentList *list);
/* The run at offset, of at most length > 0, for a read: 0 and how long it is, and whether it is a
 * hole, which it is now. */
int extent_cache_run_to_read(ExtentCache *cache, Backend *backend, uint64_t offset, uint64_t length,
                             uint64_t *ret_length, bool *ret_hole);

void extent_cache_forget(ExtentTable *table, uint64_t offset, uint64_t length);

/* [offset, +length) has changed, or may have. length > 0 */
static inline void extent_cache_changed(ExtentCache *cache, uint64_t offset, uint64_t length)
{
    /* For its order alone: the change comes before the look at the marks. (TSan knows no fence.) */
    atomic_fetch_add(&cache->changes, 1);
    ExtentTable *table = atomic_load(&cache->table);
    if (table != NULL)
        extent_cache_forget(table, offset, length);
}

#endif
