/* A list of extents: what BLOCK_STATUS, structured reads and bitmap.extents answer from.
 *
 * Extents are contiguous from a start offset; neighbours with equal flags merge as they are
 * added. The list has a bound on its number of extents: when it is reached, adding answers
 * false and the list is complete as far as it goes. Owned by one thread. */
#ifndef STORAGE_EXTENTS_H
#define STORAGE_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Flags of base:allocation, NBD specification, "Metadata contexts". */
#define EXTENT_HOLE 0x1u
#define EXTENT_ZERO 0x2u
/* The flag of a dirty bitmap: bit 0 of qemu:dirty-bitmap:NAME. */
#define EXTENT_DIRTY 0x1u

typedef struct {
    uint64_t length; /* bytes, > 0 */
    uint32_t flags;
} Extent;

typedef struct {
    uint64_t offset; /* where the first extent starts */
    uint64_t total;  /* bytes covered so far */
    Extent *items;
    size_t count;
    size_t allocated;
    size_t max; /* bound on count */
} ExtentList;

/* Starts an empty list at offset with at most max extents (> 0). */
void extent_list_init(ExtentList *list, uint64_t offset, size_t max);
void extent_list_clear(ExtentList *list);

/* Appends length bytes. True when all of it was taken; false when the bound is reached (nothing
 * was taken) or memory is short. Length 0 is true and changes nothing. */
bool extent_list_add(ExtentList *list, uint64_t length, uint32_t flags);

/* Cuts what lies beyond total bytes from the start. */
void extent_list_truncate(ExtentList *list, uint64_t total);

#endif
