/* Paged bits without locks. A page of which every bit is set may be the one shared page of ones. */
#include "storage/bitmap_bits.h"
#include <stdlib.h>
#include <string.h>

#define FOUR(x) x, x, x, x
static BitsPage ones = {
    {FOUR(FOUR(FOUR(UINT64_MAX)))}}; /* only ever read: all that is written to pages is set */
_Static_assert(BITS_WORDS == 64, "the page of ones has 64 words");

static uint64_t pages_for(uint64_t count)
{
    return (count + BITS_PAGE - 1) >> BITS_PAGE_SHIFT;
}

Bits *bits_new(uint64_t count)
{
    if (count > BITS_MAX)
        return NULL;
    Bits *bits = malloc(sizeof *bits);
    if (bits == NULL)
        return NULL;
    atomic_init(&bits->references, 1);
    bits->certain = false;
    bits->count = count;
    bits->pages = pages_for(count);
    bits->page = calloc(bits->pages + 1, sizeof *bits->page);
    if (bits->page == NULL) {
        free(bits);
        return NULL;
    }
    return bits;
}

Bits *bits_new_certain(uint64_t count)
{
    Bits *bits = bits_new(count);
    if (bits)
        bits->certain = true;
    return bits;
}

Bits *bits_ref(Bits *bits)
{
    atomic_fetch_add(&bits->references, 1);
    return bits;
}

void bits_free(Bits *bits)
{
    if (bits == NULL || atomic_fetch_sub(&bits->references, 1) > 1)
        return;
    for (uint64_t i = 0; i < bits->pages; i++) {
        BitsPage *page = atomic_load_explicit(&bits->page[i], memory_order_relaxed);
        if (page != &ones)
            free(page);
    }
    free(bits->page);
    free(bits);
}

/* The page, made if need be: `fresh` when it did not exist. NULL: there is no memory for it, and
 * the bits are certain. */
static BitsPage *make_page(Bits *bits, uint64_t index, bool full)
{
    BitsPage *page = atomic_load(&bits->page[index]);
    if (page)
        return page;
    BitsPage *fresh = full ? &ones : calloc(1, sizeof *fresh);
    if (fresh == NULL && bits->certain)
        return NULL;
    if (fresh == NULL)
        fresh = &ones;
    if (atomic_compare_exchange_strong(&bits->page[index], &page, fresh))
        return fresh;
    if (fresh != &ones)
        free(fresh);
    return page;
}

static inline void set_word(BitsPage *page, unsigned word, uint64_t mask)
{
    if ((atomic_load(&page->words[word]) & mask) != mask)
        atomic_fetch_or(&page->words[word], mask);
}

/* The bits of word `word` of a page that lie in [first, end) of the page. */
static inline uint64_t word_mask(unsigned word, unsigned first, unsigned end)
{
    uint64_t mask = UINT64_MAX;
    if (first > word * 64)
        mask &= UINT64_MAX << (first - word * 64);
    if (end < word * 64 + 64)
        mask &= UINT64_MAX >> (word * 64 + 64 - end);
    return mask;
}

void bits_set(Bits *bits, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t index = first >> BITS_PAGE_SHIFT;
        uint64_t start = index << BITS_PAGE_SHIFT;
        unsigned from = first - start;
        unsigned to = end - start < BITS_PAGE ? end - start : BITS_PAGE;
        /* The last page counts as full when all bits that the disk has are set. */
        bool full = from == 0 && (to == BITS_PAGE || start + to == bits->count);
        BitsPage *page = make_page(bits, index, full);
        if (page != NULL && page != &ones) {
            for (unsigned word = from / 64; word <= (to - 1) / 64; word++)
                set_word(page, word, word_mask(word, from, to));
        }
        first = start + to;
    }
}

/* The first bit from `from` on whose value is `value`. */
static uint64_t next(const Bits *bits, uint64_t from, uint64_t end, bool value)
{
    while (from < end) {
        uint64_t index = from >> BITS_PAGE_SHIFT;
        BitsPage *page = atomic_load(&bits->page[index]);
        if (page == NULL || page == &ones) {
            if ((page != NULL) == value)
                return from;
            from = (index + 1) << BITS_PAGE_SHIFT;
            continue;
        }
        for (unsigned word = (from % BITS_PAGE) / 64; word < BITS_WORDS; word++) {
            uint64_t found = atomic_load(&page->words[word]);
            if (!value)
                found = ~found;
            found &= UINT64_MAX << (from % 64);
            uint64_t base = (index << BITS_PAGE_SHIFT) + word * 64;
            if (found) {
                uint64_t bit = base + (unsigned)__builtin_ctzll(found);
                return bit < end ? bit : end;
            }
            from = base + 64;
            if (from >= end)
                return end;
        }
    }
    return end;
}

uint64_t bits_next_set(const Bits *bits, uint64_t from, uint64_t end)
{
    return next(bits, from, end, true);
}

uint64_t bits_next_clear(const Bits *bits, uint64_t from, uint64_t end)
{
    return next(bits, from, end, false);
}

/* Pages lie wherever malloc had room, in the order in which they were first written to: a reader
 * that goes through many of them waits for memory, unless it asks ahead. */
static void prefetch(const Bits *bits, uint64_t index)
{
    const char *page = index < bits->pages ? (const char *)atomic_load(&bits->page[index]) : NULL;
    for (size_t at = 0; page != NULL && at < sizeof(BitsPage); at += 64)
        __builtin_prefetch(page + at);
}

/* Of words [first, end) of a page, from bit `bit` of the first on: which bits of each differ from
 * the one before, where `*before` (0 or 1) comes before the first bit. Answers which words have
 * such bits; *before is then the last bit. Each word is loaded once, since bits may be set
 * meanwhile, and there is no branch: where the bits of a page lie is nothing that a processor could
 * guess. */
static uint64_t differences(const BitsPage *page, unsigned first, unsigned end, unsigned bit,
                            uint64_t *before, uint64_t ret_differ[BITS_WORDS])
{
    uint64_t word = atomic_load(&page->words[first]), here = UINT64_C(1) << bit;
    ret_differ[first] = (word ^ ((word << 1 & ~here) | *before << bit)) & -here;
    uint64_t some = (uint64_t)(ret_differ[first] != 0) << first;
    for (unsigned i = first + 1; i < end; i++) {
        uint64_t last = word >> 63;
        word = atomic_load(&page->words[i]);
        ret_differ[i] = word ^ (word << 1 | last);
        some |= (uint64_t)(ret_differ[i] != 0) << i;
    }
    *before = word >> 63;
    return some;
}

size_t bits_changes(const Bits *bits, uint64_t first, uint64_t end, bool value, uint64_t origin,
                    uint32_t *ret_at, size_t max)
{
    uint64_t differ[BITS_WORDS], before = value;
    size_t count = 0;
    for (uint64_t stop; first < end; first = stop) {
        uint64_t index = first >> BITS_PAGE_SHIFT, start = index << BITS_PAGE_SHIFT;
        BitsPage *page = atomic_load(&bits->page[index]);
        stop = end - start < BITS_PAGE ? end : start + BITS_PAGE;
        prefetch(bits, index + 2);
        if (page == NULL || page == &ones) {
            if (before != (page != NULL) && count == max)
                return count;
            if (before != (page != NULL))
                ret_at[count++] = (uint32_t)(first - origin);
            before = page != NULL;
            continue;
        }
        unsigned from = first - start, words = (stop - start + 63) / 64;
        uint64_t some = differences(page, from / 64, words, from % 64, &before, differ);
        differ[words - 1] &= word_mask(words - 1, 0, stop - start);
        for (; some; some &= some - 1) {
            unsigned word = (unsigned)__builtin_ctzll(some);
            for (uint64_t left = differ[word]; left; left &= left - 1) {
                if (count == max)
                    return count;
                ret_at[count++] =
                    (uint32_t)(start - origin) + word * 64 + (unsigned)__builtin_ctzll(left);
            }
        }
    }
    return count;
}

bool bits_all_set(const Bits *bits, uint64_t first, uint64_t end)
{
    return end == first + 1 ? bits_test(bits, first) : next(bits, first, end, false) == end;
}

BitsPageKind bits_page_get(const Bits *bits, uint64_t index, uint64_t ret_words[BITS_WORDS])
{
    uint64_t start = index << BITS_PAGE_SHIFT;
    unsigned used = bits->count - start < BITS_PAGE ? bits->count - start : BITS_PAGE;
    BitsPage *page = atomic_load(&bits->page[index]);
    bool empty = true, full = true;
    for (unsigned word = 0; word < BITS_WORDS; word++) {
        uint64_t mask = word * 64 < used ? word_mask(word, 0, used) : 0;
        ret_words[word] = page ? atomic_load(&page->words[word]) & mask : 0;
        empty = empty && ret_words[word] == 0;
        full = full && ret_words[word] == mask;
    }
    return empty ? BITS_PAGE_EMPTY : full ? BITS_PAGE_FULL : BITS_PAGE_MIXED;
}

/* False: there is no page of it. */
static bool or_words(Bits *bits, uint64_t index, const uint64_t *words)
{
    BitsPage *page = make_page(bits, index, false);
    for (unsigned word = 0; page != NULL && page != &ones && word < BITS_WORDS; word++) {
        if (words[word])
            set_word(page, word, words[word]);
    }
    return page != NULL;
}

void bits_page_or(Bits *bits, uint64_t index, const uint64_t *words)
{
    uint64_t start = index << BITS_PAGE_SHIFT;
    if (words)
        or_words(bits, index, words);
    else
        bits_set(bits, start, start + BITS_PAGE < bits->count ? start + BITS_PAGE : bits->count);
}

uint64_t bits_population(const Bits *bits)
{
    uint64_t population = 0, words[BITS_WORDS];
    for (uint64_t index = 0; index < bits->pages; index++) {
        if (atomic_load(&bits->page[index]) == NULL)
            continue;
        bits_page_get(bits, index, words);
        for (unsigned word = 0; word < BITS_WORDS; word++)
            population += (unsigned)__builtin_popcountll(words[word]);
    }
    return population;
}

/* False: not all of it. */
static bool merge_pages(Bits *target, const Bits *source)
{
    uint64_t words[BITS_WORDS];
    bool all = true;
    uint64_t pages = source->pages < target->pages ? source->pages : target->pages;
    for (uint64_t index = 0; index < pages; index++) {
        switch (bits_page_get(source, index, words)) {
        case BITS_PAGE_EMPTY:
            break;
        case BITS_PAGE_FULL:
            bits_page_or(target, index, source->pages == target->pages ? NULL : words);
            break;
        case BITS_PAGE_MIXED:
            all = or_words(target, index, words) && all;
            break;
        }
    }
    return all;
}

void bits_merge(Bits *target, unsigned target_shift, const Bits *source, unsigned source_shift)
{
    if (target_shift == source_shift) {
        merge_pages(target, source);
        return;
    }
    /* A run of source bits is a range of bytes; every target block it touches becomes dirty. */
    uint64_t bit = 0;
    while ((bit = bits_next_set(source, bit, source->count)) < source->count) {
        uint64_t end = bits_next_clear(source, bit, source->count);
        uint64_t first, last;
        if (target_shift < source_shift) {
            first = bit << (source_shift - target_shift);
            last = end << (source_shift - target_shift);
        } else {
            unsigned shift = target_shift - source_shift;
            first = bit >> shift;
            last = ((end - 1) >> shift) + 1;
        }
        if (last > target->count)
            last = target->count;
        bits_set(target, first, last);
        bit = end;
    }
}

Bits *bits_copy(const Bits *bits)
{
    Bits *copy = bits_new(bits->count);
    if (copy)
        merge_pages(copy, bits);
    return copy;
}

Bits *bits_copy_certain(const Bits *bits)
{
    Bits *copy = bits_new_certain(bits->count);
    if (copy == NULL || merge_pages(copy, bits))
        return copy;
    bits_free(copy);
    return NULL;
}

bool bits_grow(Bits *bits, uint64_t count)
{
    if (count > BITS_MAX)
        return false;
    uint64_t pages = pages_for(count);
    _Atomic(BitsPage *) *page = calloc(pages + 1, sizeof *page);
    if (page == NULL)
        return false;
    /* A last page that counted as full is full only as far as the disk went. */
    uint64_t last = bits->pages - 1;
    if (bits->pages > 0 && atomic_load(&bits->page[last]) == &ones && bits->count % BITS_PAGE) {
        BitsPage *partial = calloc(1, sizeof *partial);
        if (partial == NULL) {
            free(page);
            return false;
        }
        bits_page_get(bits, last, (uint64_t *)partial->words);
        atomic_store(&bits->page[last], partial);
    }
    for (uint64_t i = 0; i < bits->pages; i++)
        atomic_init(&page[i], atomic_load(&bits->page[i]));
    free(bits->page);
    bits->page = page;
    bits->pages = pages;
    bits->count = count;
    return true;
}
