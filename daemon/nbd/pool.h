/* Buffers for payload: a bounded pool that all connections share and that can refuse.
 *
 * Two bounds: what all connections hold, and what one holds (its account). So that some who hold
 * much (slow readers) cannot starve the rest, an account may also hold no more than half of what
 * the others leave: newcomers always find room. Whoever is refused goes on with its base buffers,
 * slice by slice; nobody ever waits for another's memory.
 *
 * Some unused blocks are kept for the next taker while any are in use, and for a second after at
 * most; the default main context's loop sees to that.
 *
 * Thread-safe, but for making and freeing a pool, which the main thread does. Blocks are
 * page-aligned and not cleared. */
#ifndef NBD_POOL_H
#define NBD_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct BufferPool BufferPool;

typedef struct {
    BufferPool *pool;
    _Atomic uint64_t held; /* bytes */
} PoolAccount;

/* Sizes a caller may count on; bigger ones have room for a header on top. */
#define POOL_ROOM    4096u
#define POOL_MAXIMUM ((size_t)64 << 20)

BufferPool *pool_new(uint64_t total_bytes, uint64_t account_bytes);
void pool_free(BufferPool *pool); /* everything has been given back; takes NULL */

void pool_account_init(PoolAccount *account, BufferPool *pool);

/* A block of at least size bytes (0 < size <= POOL_MAXIMUM), or NULL: refused, or memory is
 * short. *ret_size, if asked for, is how much it really holds; it is what the account pays.
 * base: the few buffers that a connection cannot work without are not refused by the bounds (the
 * bound on connections bounds them). */
void *pool_take(PoolAccount *account, size_t size, bool base, size_t *ret_size);
/* size: as asked for, or as answered. Takes NULL. */
void pool_give(PoolAccount *account, void *block, size_t size);

/* For tests and statistics. */
uint64_t pool_held(BufferPool *pool);
uint64_t pool_cached(BufferPool *pool);

#endif
