/* Bitmaps as clients and the control plane see them. */
#include "storage/bitmap_private.h"
#include "storage/disk.h"
#include <errno.h>
#include <sched.h>
#include <string.h>

uint64_t bitmap_blocks(uint64_t size, unsigned shift)
{
    return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

Bitmap *bitmap_new(const char *name, unsigned shift, uint64_t size)
{
    Bitmap *bitmap = g_new0(Bitmap, 1);
    atomic_init(&bitmap->references, 1);
    bitmap->name = g_strdup(name);
    bitmap->shift = shift;
    bitmap->size = size;
    pthread_rwlock_init(&bitmap->lock, NULL);
    return bitmap;
}

Bitmap *bitmap_ref(Bitmap *bitmap)
{
    atomic_fetch_add(&bitmap->references, 1);
    return bitmap;
}

void bitmap_unref(Bitmap *bitmap)
{
    if (bitmap == NULL || atomic_fetch_sub(&bitmap->references, 1) > 1)
        return;
    bits_free(bitmap->bits);
    bits_free(bitmap->stored);
    bitmap_meta_clear(&bitmap->meta);
    pthread_rwlock_destroy(&bitmap->lock);
    g_free(bitmap->name);
    g_free(bitmap);
}

/* Under the lock: what was shown before may be given up when this returns. */
static void show(Bitmap *bitmap, Bits *bits)
{
    atomic_store(&bitmap->shown, bits);
    while (atomic_load(&bitmap->looking) > 0)
        sched_yield();
}

/* A reference to what is shown, or NULL. */
static Bits *look(Bitmap *bitmap)
{
    atomic_fetch_add(&bitmap->looking, 1);
    Bits *bits = atomic_load(&bitmap->shown);
    if (bits != NULL)
        bits_ref(bits);
    atomic_fetch_sub(&bitmap->looking, 1);
    return bits;
}

void bitmap_replace_bits(Bitmap *bitmap, Bits *bits)
{
    Bits *old = bitmap->bits;
    bitmap->bits = bits;
    show(bitmap, bitmap->removed ? NULL : bits);
    bits_free(old);
}

void bitmap_remove(Bitmap *bitmap)
{
    pthread_rwlock_wrlock(&bitmap->lock);
    bitmap->removed = true;
    show(bitmap, NULL);
    pthread_rwlock_unlock(&bitmap->lock);
}

const char *bitmap_name(const Bitmap *bitmap)
{
    return bitmap->name;
}

void bitmap_meta_clear(BitmapMeta *meta)
{
    g_free(meta->generation);
    g_free(meta->invalid_reason);
    *meta = (BitmapMeta){0};
}

void bitmap_meta_copy(BitmapMeta *target, const BitmapMeta *source)
{
    BitmapMeta copy = *source;
    copy.generation = g_strdup(source->generation);
    copy.invalid_reason = g_strdup(source->invalid_reason);
    bitmap_meta_clear(target);
    *target = copy;
}

uint64_t bitmap_dirty_bytes(const Bits *bits, uint64_t size, unsigned shift)
{
    if (bits == NULL || bits->count == 0)
        return 0;
    uint64_t bytes = bits_population(bits) << shift;
    if (bits_test(bits, bits->count - 1))
        bytes -= (bits->count << shift) - size;
    return bytes;
}

void bitmap_fill_info(BitmapInfo *info, const char *name, unsigned shift, uint64_t size,
                      const BitmapMeta *meta, const Bits *bits, BitmapWatch watch)
{
    uint64_t dirty = bitmap_dirty_bytes(bits, size, shift);
    *info = (BitmapInfo){
        .name = g_strdup(name),
        .generation = g_strdup(meta->generation),
        .granularity = UINT32_C(1) << shift,
        .state = meta->invalid_reason  ? BITMAP_INVALID
                 : meta->over_reported ? BITMAP_RECOVERED
                 : meta->recording     ? BITMAP_RECORDING
                                       : BITMAP_DISABLED,
        .reason = g_strdup(meta->invalid_reason),
        .recording = meta->recording,
        .missed_writes = meta->missed_writes,
        .dirty_bytes = dirty,
        .over_reported_bytes = MIN(meta->over_reported, dirty),
        .durability = meta->durability,
        .watch = watch,
    };
}

void bitmap_get_info(Bitmap *bitmap, BitmapInfo *ret_info)
{
    pthread_rwlock_rdlock(&bitmap->lock);
    bitmap_fill_info(ret_info, bitmap->name, bitmap->shift, bitmap->size, &bitmap->meta,
                     bitmap->bits, bitmap->watch);
    pthread_rwlock_unlock(&bitmap->lock);
}

void bitmap_info_clear(BitmapInfo *info)
{
    g_free(info->name);
    g_free(info->generation);
    g_free(info->reason);
    *info = (BitmapInfo){0};
}

bool bitmap_is_offered(Bitmap *bitmap)
{
    return atomic_load(&bitmap->shown) != NULL;
}

int bitmap_walk_begin(BitmapWalk *walk, Bitmap *bitmap, uint64_t offset, uint64_t length)
{
    Bits *bits = look(bitmap);
    uint64_t end = bitmap_blocks(offset + length, bitmap->shift);
    if (bits == NULL || end > bits->count || length == 0) {
        bits_free(bits);
        return -EIO;
    }
    uint64_t first = offset >> bitmap->shift;
    *walk = (BitmapWalk){
        .bits = bits,
        .shift = bitmap->shift,
        .dirty = bits_test(bits, first),
        .first = first,
        .next = first + 1,
        .end = MIN(end, first + BITS_REACH),
        .offset = offset,
    };
    walk->stop = MIN(walk->end << walk->shift, offset + length);
    walk->value = walk->dirty;
    return 0;
}

size_t bitmap_walk(BitmapWalk *walk, uint32_t *ret_changes, size_t max)
{
    size_t count =
        bits_changes(walk->bits, walk->next, walk->end, walk->value, walk->first, ret_changes, max);
    if (count > 0)
        walk->next = walk->first + ret_changes[count - 1] + 1;
    walk->value ^= count % 2;
    return count;
}

void bitmap_walk_end(BitmapWalk *walk)
{
    bits_free(walk->bits);
}

/* Changes found at once. */
#define CHANGES 256

/* All of a walk; false: the list is full. */
static bool append_walk(BitmapWalk *walk, ExtentList *list)
{
    uint32_t changes[CHANGES];
    bool dirty = walk->dirty;
    uint64_t at = walk->offset;
    size_t count;
    do {
        count = bitmap_walk(walk, changes, CHANGES);
        for (size_t i = 0; i < count; i++) {
            uint64_t until = bitmap_walk_place(walk, changes[i]);
            if (!extent_list_add(list, until - at, dirty ? EXTENT_DIRTY : 0))
                return false;
            at = until;
            dirty = !dirty;
        }
    } while (count == CHANGES);
    return extent_list_add(list, walk->stop - at, dirty ? EXTENT_DIRTY : 0);
}

int bitmap_extents(Bitmap *bitmap, uint64_t offset, uint64_t length, ExtentList *list)
{
    BitmapWalk walk;
    if (length == 0)
        return bitmap_is_offered(bitmap) ? 0 : -EIO;
    if (bitmap_walk_begin(&walk, bitmap, offset, length) < 0)
        return -EIO;
    append_walk(&walk, list);
    bitmap_walk_end(&walk);
    return 0;
}
