#include "daemon/nbd/pool.h"
#include <glib.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Bins are powers of two from 4 KiB to 64 MiB. From ROOM_BIN on they have a page on top, so
 * that a payload of a power of two fits with its header. */
#define SMALLEST_SHIFT 12
#define BINS           15
#define ROOM_BIN       3

/* Below it malloc is as good and makes no mappings (their number has a bound, too). */
#define MAP_THRESHOLD (16u << 10)
/* Unused blocks kept for the next taker. When the last block is given back they are kept for a
 * moment still: who maps a disk or copies it often comes back at once, and pages that the kernel
 * has to find and clear anew cost more than what is done in them. */
#define CACHE_BYTES       (8u << 20)
#define KEEP_MILLISECONDS 1000

typedef struct Unused Unused;
struct Unused {
    Unused *next;
};

struct BufferPool {
    uint64_t total_bytes, account_bytes;
    _Atomic uint64_t held;
    pthread_mutex_t lock; /* for what follows */
    Unused *unused[BINS];
    uint64_t cached;
    GSource *timer; /* NULL: there is no moment to wait for */
};

BufferPool *pool_new(uint64_t total_bytes, uint64_t account_bytes)
{
    BufferPool *pool = g_new0(BufferPool, 1);
    pool->total_bytes = total_bytes;
    pool->account_bytes = account_bytes;
    pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

static size_t bin_size(unsigned bin)
{
    return ((size_t)1 << (SMALLEST_SHIFT + bin)) + (bin >= ROOM_BIN ? POOL_ROOM : 0);
}

static unsigned bin_of(size_t size)
{
    unsigned bin = 0;
    while (bin_size(bin) < size)
        bin++;
    g_assert(bin < BINS);
    return bin;
}

static void *block_new(size_t size)
{
    if (size < MAP_THRESHOLD)
        return aligned_alloc(POOL_ROOM, size);
    void *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

static void block_free(void *block, size_t size)
{
    if (size < MAP_THRESHOLD)
        free(block);
    else
        munmap(block, size);
}

static void trim(BufferPool *pool)
{
    Unused *lists[BINS];
    pthread_mutex_lock(&pool->lock);
    for (unsigned bin = 0; bin < BINS; bin++)
        lists[bin] = g_steal_pointer(&pool->unused[bin]);
    pool->cached = 0;
    pthread_mutex_unlock(&pool->lock);
    for (unsigned bin = 0; bin < BINS; bin++) {
        while (lists[bin] != NULL) {
            Unused *block = lists[bin];
            lists[bin] = block->next;
            block_free(block, bin_size(bin));
        }
    }
}

static gboolean on_time(gpointer data)
{
    BufferPool *pool = data;
    pthread_mutex_lock(&pool->lock);
    g_clear_pointer(&pool->timer, g_source_unref);
    pthread_mutex_unlock(&pool->lock);
    /* Otherwise whoever gives back the last one sets it again. */
    if (atomic_load(&pool->held) == 0)
        trim(pool);
    return G_SOURCE_REMOVE;
}

static void trim_soon(BufferPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    if (pool->timer == NULL && pool->cached > 0) {
        pool->timer = g_timeout_source_new(KEEP_MILLISECONDS);
        g_source_set_callback(pool->timer, on_time, pool, NULL);
        g_source_attach(pool->timer, NULL);
    }
    pthread_mutex_unlock(&pool->lock);
}

void pool_free(BufferPool *pool)
{
    if (pool == NULL)
        return;
    g_assert(atomic_load(&pool->held) == 0);
    if (pool->timer != NULL)
        g_source_destroy(pool->timer);
    g_clear_pointer(&pool->timer, g_source_unref);
    trim(pool);
    pthread_mutex_destroy(&pool->lock);
    g_free(pool);
}

void pool_account_init(PoolAccount *account, BufferPool *pool)
{
    account->pool = pool;
    atomic_init(&account->held, 0);
}

/* Two connections may pass the test at once and go over the total by what each asked for. They
 * take it back when they see it. */
static bool charge(PoolAccount *account, size_t size, bool base)
{
    BufferPool *pool = account->pool;
    uint64_t held = atomic_fetch_add(&pool->held, size);
    uint64_t own = atomic_fetch_add(&account->held, size) + size;
    if (base)
        return true;
    uint64_t left = held < pool->total_bytes ? pool->total_bytes - held : 0;
    uint64_t without_others = left + (own - size);
    if (own <= pool->account_bytes && size <= left && own <= without_others / 2)
        return true;
    atomic_fetch_sub(&account->held, size);
    atomic_fetch_sub(&pool->held, size);
    return false;
}

void *pool_take(PoolAccount *account, size_t size, bool base, size_t *ret_size)
{
    BufferPool *pool = account->pool;
    unsigned bin = bin_of(size);
    size = bin_size(bin);
    if (!charge(account, size, base))
        return NULL;

    pthread_mutex_lock(&pool->lock);
    Unused *block = pool->unused[bin];
    if (block != NULL) {
        pool->unused[bin] = block->next;
        pool->cached -= size;
    }
    pthread_mutex_unlock(&pool->lock);

    void *taken = block ? (void *)block : block_new(size);
    if (taken == NULL) {
        atomic_fetch_sub(&account->held, size);
        atomic_fetch_sub(&pool->held, size);
        return NULL;
    }
    if (ret_size != NULL)
        *ret_size = size;
    return taken;
}

void pool_give(PoolAccount *account, void *block, size_t size)
{
    if (block == NULL)
        return;
    BufferPool *pool = account->pool;
    unsigned bin = bin_of(size);
    size = bin_size(bin);

    pthread_mutex_lock(&pool->lock);
    bool keep = pool->cached + size <= CACHE_BYTES;
    if (keep) {
        Unused *unused = block;
        unused->next = pool->unused[bin];
        pool->unused[bin] = unused;
        pool->cached += size;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!keep)
        block_free(block, size);

    atomic_fetch_sub(&account->held, size);
    if (atomic_fetch_sub(&pool->held, size) == size)
        trim_soon(pool);
}

uint64_t pool_held(BufferPool *pool)
{
    return atomic_load(&pool->held);
}

uint64_t pool_cached(BufferPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    uint64_t cached = pool->cached;
    pthread_mutex_unlock(&pool->lock);
    return cached;
}
