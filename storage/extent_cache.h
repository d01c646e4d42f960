/* What is known of where a disk's data and holes are, chunk by chunk, so that asking a second time
 * does not cost two system calls an extent.
 *
 * It is exact under changes at any time: every change of contents calls extent_cache_changed()
 * when it has been made and before it is answered. Whoever asks marks a chunk as known, under a
 * number of its own, before it looks at the file, and what it found counts for as long as that mark
 * is there. So a change that the look may have missed takes the mark away after it was set, and
 * one that does not see the mark was made before the look. A change that was not answered yet may
 * or may not be seen, as ever.
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
    ExtentChunk chunks[EXTENT_CHUNKS];     /* under the cache's lock */
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
