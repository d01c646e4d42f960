/* A disk's page: memory mapped from a file in the runtime directory, so that what it says outlives
 * the process (though not a reboot), at the price of a store.
 *
 * It holds how many writes are in flight (the gate's word), when the last one was, how far the
 * store had come, and, for bitmaps that need survive no more than the process, which regions were
 * written since their bits were stored. Without a file to map it works all the same, as plain
 * memory that nobody finds again. */
#ifndef STORAGE_DISK_PAGE_H
#define STORAGE_DISK_PAGE_H

#include "storage/disk_gate.h"
#include <glib.h>
#include <stdatomic.h>

/* States of a byte of the map. */
#define PAGE_REGION_QUIET    0
#define PAGE_REGION_WRITTEN  1
#define PAGE_REGION_RETIRING 2

typedef struct {
    char magic[8];
    char boot[40];     /* boot id */
    char disk[48];     /* which database and disk: see disk_page_open */
    uint64_t inode;    /* of the backing file */
    uint64_t map_size; /* bytes of the map, 0: none */
    uint64_t region_shift;
    _Alignas(64) _Atomic uint64_t gate;
    _Alignas(64) _Atomic int64_t last_write; /* nanoseconds since the epoch */
    _Alignas(64) _Atomic uint64_t sequence;  /* the watch's, as last committed */
    _Atomic uint64_t changed; /* others have changed the file, and no bitmap says so yet */
} DiskPageHeader;

typedef struct {
    char *path;
    char *settled; /* where it belongs, while it is somewhere else; NULL: it is there */
    int fd;        /* -1: plain memory */
    DiskPageHeader *header;
    _Atomic uint8_t *map; /* a byte a region, or NULL */
    uint64_t map_size;
} DiskPage;

/* What a process that ended without a word left behind. */
typedef struct {
    bool found; /* of this boot, database, disk and file; else the rest is 0 */
    bool in_flight;
    bool changed;
    int64_t last_write;
    uint64_t sequence;
    unsigned region_shift;
    uint64_t map_size;
} DiskPageRemains;

/* Maps DIR/nbdd-ID, creating it if need be, and reads what is in it; changes nothing yet. id: up
 * to 47 characters fit for a file name. new: leaves that file alone, which may be somebody's, and
 * makes another one, until disk_page_settle. */
void disk_page_open(DiskPage *page, const char *dir, const char *id, const char *boot,
                    uint64_t inode, bool new, DiskPageRemains *ret_remains);
/* A new one is found again from here on, and who had the name is not. */
void disk_page_settle(DiskPage *page);
/* The same, if nobody has the name: before that is stored which it is needed for. */
void disk_page_claim(DiskPage *page);
/* Begins anew: nothing in flight, no map. What was read is stored elsewhere by now. */
void disk_page_reset(DiskPage *page, const char *id, const char *boot, uint64_t inode,
                     int64_t last_write, uint64_t sequence);
/* Makes a map of `size` quiet regions, or a larger one that begins as the present one. Nobody uses
 * the map meanwhile. False: there is no room for one; what there was stays. */
bool disk_page_add_map(DiskPage *page, uint64_t size, unsigned region_shift);
/* forget: the file goes too; nothing in it matters any more. One that was never settled always
 * does. */
void disk_page_close(DiskPage *page, bool forget);
/* Deletes the file of a disk that is not open. */
void disk_page_forget(const char *dir, const char *id);

/* A write begins, or has ended: the time of the last one is not before now. The cheap clock is
 * good enough for the beginning; the end must not lie before the file's own change time. */
void disk_page_touch(DiskPage *page, bool exact);
/* Makes it at least `when`. */
void disk_page_advance(DiskPage *page, int64_t when);

#endif
