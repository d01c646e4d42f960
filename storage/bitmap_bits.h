/* The bits of a bitmap: one bit a block, in pages that exist once a bit in them is set.
 *
 * Setting and reading take no lock. All accesses are sequentially consistent, because the promise
 * of track.c rests on the order between a bit and the state of its region; on x86-64 that makes
 * loads no dearer, and a bit that is set already is only loaded. Nothing here clears a bit: bits
 * that begin anew are a new object. Making and resizing are for an owner who is alone with it;
 * whoever has a reference may read.
 *
 * When memory for a page is short, the whole page counts as set: a write never fails for it. Of
 * bits that say what is certain, such as what is stored already, none of it is set then. */
#ifndef STORAGE_BITMAP_BITS_H
#define STORAGE_BITMAP_BITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITS_PAGE_SHIFT 12
#define BITS_PAGE       (1u << BITS_PAGE_SHIFT) /* bits a page, a row of the store */
#define BITS_WORDS      (BITS_PAGE / 64)
#define BITS_MAX        (UINT64_C(1) << 34) /* of one object */

typedef struct {
    _Atomic uint64_t words[BITS_WORDS];
} BitsPage;

typedef struct Bits {
    _Atomic unsigned references;
    bool certain;
    uint64_t count; /* bits */
    uint64_t pages;
    _Atomic(BitsPage *) *page; /* NULL: no bit of it is set */
} Bits;

Bits *bits_new(uint64_t count); /* all clear; NULL when memory is short; count <= BITS_MAX */
Bits *bits_new_certain(uint64_t count);
Bits *bits_ref(Bits *bits);
void bits_free(Bits *bits); /* gives up a reference, the last one frees; takes NULL */
Bits *bits_copy(const Bits *bits);
Bits *bits_copy_certain(const Bits *bits); /* all of it, or NULL */
/* A larger (or equal) count; new bits are clear. False when memory is short: nothing changed. */
bool bits_grow(Bits *bits, uint64_t count);

/* Bits from first up to, not including, end. */
void bits_set(Bits *bits, uint64_t first, uint64_t end);
bool bits_all_set(const Bits *bits, uint64_t first, uint64_t end);
uint64_t bits_population(const Bits *bits);
/* The first bit from `from` on that is set (clear), `end` if there is none before it. */
uint64_t bits_next_set(const Bits *bits, uint64_t from, uint64_t end);
uint64_t bits_next_clear(const Bits *bits, uint64_t from, uint64_t end);

/* Where the value changes: each bit in [first, end) that differs from the one before it, where
 * `value` comes before the first; max of them at most (> 0). How many; fewer than max: there is no
 * other. To go on, first is behind the last one found and value what began there, whatever was set
 * meanwhile. ret_at counts from origin, which is not behind first; end - origin <= BITS_REACH. */
#define BITS_REACH (UINT64_C(1) << 32)
size_t bits_changes(const Bits *bits, uint64_t first, uint64_t end, bool value, uint64_t origin,
                    uint32_t *ret_at, size_t max);

/* target |= source, where a bit of each stands for 1 << shift bytes of the same disk. */
void bits_merge(Bits *target, unsigned target_shift, const Bits *source, unsigned source_shift);

/* A page as the store keeps it: words in memory order. Bits past the count are clear. */
typedef enum { BITS_PAGE_EMPTY, BITS_PAGE_FULL, BITS_PAGE_MIXED } BitsPageKind;
BitsPageKind bits_page_get(const Bits *bits, uint64_t page, uint64_t ret_words[BITS_WORDS]);
/* page |= words; words NULL: all of it. */
void bits_page_or(Bits *bits, uint64_t page, const uint64_t *words);

static inline void bits_set_one(Bits *bits, uint64_t bit)
{
    BitsPage *page = atomic_load(&bits->page[bit >> BITS_PAGE_SHIFT]);
    if (page) {
        _Atomic uint64_t *word = &page->words[(bit % BITS_PAGE) / 64];
        uint64_t mask = UINT64_C(1) << (bit % 64);
        if (!(atomic_load(word) & mask))
            atomic_fetch_or(word, mask);
    } else {
        bits_set(bits, bit, bit + 1);
    }
}

static inline bool bits_test(const Bits *bits, uint64_t bit)
{
    BitsPage *page = atomic_load(&bits->page[bit >> BITS_PAGE_SHIFT]);
    return page &&
           (atomic_load(&page->words[(bit % BITS_PAGE) / 64]) & (UINT64_C(1) << (bit % 64)));
}

#endif
