#include "storage/extent_cache.h"
#include <errno.h>
#include <stdlib.h>

/* Of one chunk: one that is more fragmented is known as far as they go. */
#define CHUNK_EXTENTS  ((size_t)16384)
#define SMALLEST_SHIFT 20
/* Of all disks together: 16 MiB. */
#define MOST_EXTENTS ((size_t)1 << 20)
static _Atomic size_t extents_held;

void extent_cache_init(ExtentCache *cache)
{
    atomic_init(&cache->table, NULL);
    atomic_init(&cache->last_mark, 0);
    atomic_init(&cache->changes, 0);
    pthread_mutex_init(&cache->lock, NULL);
}

/* Under lock. */
static void drop(ExtentChunk *chunk)
{
    atomic_fetch_sub(&extents_held, chunk->count);
    free(chunk->items);
    *chunk = (ExtentChunk){0};
}

void extent_cache_destroy(ExtentCache *cache)
{
    ExtentTable *table = atomic_load(&cache->table);
    for (size_t i = 0; table != NULL && i < EXTENT_CHUNKS; i++)
        drop(&table->chunks[i]);
    free(table);
    pthread_mutex_destroy(&cache->lock);
}

void extent_cache_forget(ExtentTable *table, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> table->shift, last = (offset + length - 1) >> table->shift;
    for (uint64_t i = first; i <= last && i < EXTENT_CHUNKS; i++) {
        if (atomic_load(&table->marks[i]) != 0)
            atomic_store(&table->marks[i], 0);
    }
}

static ExtentTable *make_table(ExtentCache *cache, const Backend *backend)
{
    ExtentTable *fresh = calloc(1, sizeof *fresh), *table = NULL;
    if (fresh == NULL)
        return NULL;
    fresh->shift = SMALLEST_SHIFT;
    while (((uint64_t)EXTENT_CHUNKS << fresh->shift) < atomic_load(&backend->size))
        fresh->shift++;
    if (atomic_compare_exchange_strong(&cache->table, &table, fresh))
        return fresh;
    free(fresh);
    return table;
}

/* --- answering from it --- */

/* Whether what is known counts: it is what the file is like now, whoever has changed it. (Who
 * learns meanwhile either marks a chunk before its mark is taken away here, or looks at the file
 * after it had the new stamp.) */
static bool is_current(ExtentCache *cache, ExtentTable *table, Backend *backend)
{
    BackendStamp now;

    if (backend->ops->stamp == NULL || !backend->ops->stamp(backend, &now))
        return false;
    pthread_mutex_lock(&cache->lock);
    const BackendStamp *then = &table->stamp;
    if (now.ctime != then->ctime || now.mtime != then->mtime || now.size != then->size ||
        now.blocks != then->blocks) {
        table->stamp = now;
        extent_cache_forget(table, 0, UINT64_MAX);
    }
    pthread_mutex_unlock(&cache->lock);
    return true;
}

/* The first that ends behind offset. */
static size_t find(const ExtentChunk *chunk, uint64_t offset)
{
    size_t low = 0, high = chunk->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (chunk->items[middle].end > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Appends what is known of the chunk from *offset on, up to end, and moves *offset on. False:
 * nothing is. *ret_full: the list is. */
static bool append_known(ExtentCache *cache, ExtentTable *table, uint64_t index, uint64_t *offset,
                         uint64_t end, ExtentList *list, bool *ret_full)
{
    const ExtentChunk *chunk = &table->chunks[index];

    if (atomic_load(&table->marks[index]) == 0)
        return false;
    pthread_mutex_lock(&cache->lock);
    bool known = chunk->mark == atomic_load(&table->marks[index]);
    for (size_t i = known ? find(chunk, *offset) : SIZE_MAX;
         i < chunk->count && *offset < end && !*ret_full; i++) {
        uint64_t until = MIN(chunk->items[i].end, end);
        if (extent_list_add(list, until - *offset, chunk->items[i].flags))
            *offset = until;
        else
            *ret_full = true;
    }
    pthread_mutex_unlock(&cache->lock);
    return known;
}

/* --- learning --- */

/* Under lock: gives up what is not known any more. */
static void sweep(ExtentTable *table)
{
    for (size_t i = 0; i < EXTENT_CHUNKS; i++) {
        if (table->chunks[i].mark != atomic_load(&table->marks[i]))
            drop(&table->chunks[i]);
    }
}

/* Under lock. */
static void keep(ExtentTable *table, uint64_t index, const ExtentList *found, uint64_t mark)
{
    ExtentChunk *chunk = &table->chunks[index];
    uint64_t end = found->offset;

    drop(chunk);
    if (atomic_load(&extents_held) + found->count > MOST_EXTENTS)
        sweep(table);
    if (atomic_load(&extents_held) + found->count > MOST_EXTENTS)
        return;
    chunk->items = malloc(found->count * sizeof(KnownExtent));
    if (chunk->items == NULL)
        return;
    for (size_t i = 0; i < found->count; i++) {
        end += found->items[i].length;
        chunk->items[i] = (KnownExtent){.end = end, .flags = found->items[i].flags};
    }
    chunk->count = found->count;
    chunk->mark = mark;
    atomic_fetch_add(&extents_held, chunk->count);
}

/* False: the chunk could not be looked at. */
static bool learn(ExtentCache *cache, ExtentTable *table, Backend *backend, uint64_t index)
{
    uint64_t start = index << table->shift, size = atomic_load(&backend->size);
    uint64_t mark = atomic_fetch_add(&cache->last_mark, 1) + 1;
    ExtentList found;

    if (start >= size)
        return false;
    atomic_store(&table->marks[index], mark);
    extent_list_init(&found, start, CHUNK_EXTENTS);
    bool ok = backend->ops->extents(backend, start, MIN(UINT64_C(1) << table->shift, size - start),
                                    &found) == 0 &&
              found.count > 0;
    if (ok) {
        pthread_mutex_lock(&cache->lock);
        keep(table, index, &found, mark);
        pthread_mutex_unlock(&cache->lock);
    }
    extent_list_clear(&found);
    return ok;
}

/* Appends what the file says; false, and *ret_result, when that is all there will be. */
static bool append_found(Backend *backend, uint64_t offset, uint64_t end, ExtentList *list,
                         int *ret_result)
{
    uint64_t before = list->total;
    *ret_result = backend->ops->extents(backend, offset, end - offset, list);
    return *ret_result == 0 && list->total - before >= end - offset;
}

int extent_cache_extents(ExtentCache *cache, Backend *backend, uint64_t offset, uint64_t length,
                         ExtentList *list)
{
    uint64_t end = offset + length, learned = UINT64_MAX;
    ExtentTable *table = atomic_load(&cache->table);
    bool full = false;
    int result = 0;

    if (table == NULL && length >= UINT64_C(1) << SMALLEST_SHIFT)
        table = make_table(cache, backend);
    if (table != NULL && !is_current(cache, table, backend))
        table = NULL;
    while (offset < end) {
        uint64_t index = table != NULL ? offset >> table->shift : EXTENT_CHUNKS;
        if (index >= EXTENT_CHUNKS) {
            append_found(backend, offset, end, list, &result);
            break;
        }
        uint64_t until = MIN((index + 1) << table->shift, end);
        /* Who asks for little, a read, is not made to wait for what is around it. */
        if (!append_known(cache, table, index, &offset, until, list, &full) && learned != index &&
            length >= UINT64_C(1) << table->shift && learn(cache, table, backend, index)) {
            learned = index;
            continue;
        }
        if (full || (offset < until && !append_found(backend, offset, until, list, &result)))
            break;
        offset = until;
    }
    /* What comes after the first is met again when it is asked for. */
    return list->count > 0 ? 0 : result < 0 ? result : -ENOMEM;
}

int extent_cache_run_to_read(ExtentCache *cache, Backend *backend, uint64_t offset, uint64_t length,
                             uint64_t *ret_length, bool *ret_hole)
{
    uint64_t end = offset + length, at = offset, until = offset;
    ExtentTable *table = atomic_load(&cache->table);
    ExtentList list;
    bool full = false;
    int result = 0;

    extent_list_init(&list, offset, 1);
    while (table != NULL && at == until && at < end && at >> table->shift < EXTENT_CHUNKS) {
        uint64_t index = at >> table->shift;
        until = MIN((index + 1) << table->shift, end);
        if (!append_known(cache, table, index, &at, until, &list, &full))
            break;
    }
    /* Data may be read whatever it is by now. */
    if (list.count > 0 && (list.items[0].flags & EXTENT_ZERO) != 0) {
        extent_list_truncate(&list, 0);
        at = offset;
        full = false;
    }
    if (at < end && !full)
        result = backend->ops->extents(backend, at, end - at, &list);
    if (list.count > 0) {
        *ret_length = MIN(list.items[0].length, length);
        *ret_hole = (list.items[0].flags & EXTENT_ZERO) != 0;
        result = 0;
    } else if (result == 0) {
        result = -EIO;
    }
    extent_list_clear(&list);
    return result;
}
