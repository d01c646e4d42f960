/* The rows of what is tracked: bitmaps, their bits, intents, the watch on the backing file. Plain
 * data, store thread only, inside a transaction. Row ids are never used twice. */
#ifndef STORAGE_STORE_TRACK_H
#define STORAGE_STORE_TRACK_H

#include "storage/bitmap_private.h"
#include "storage/disk_watch.h"
#include "storage/store_private.h"

/* 0: there is no such disk. */
bool store_find_disk(StoreTxn *txn, const char *name, int64_t *ret_id, GError **error);

/* id 0: a new row, whose id *ret_id becomes. */
bool store_put_bitmap(StoreTxn *txn, int64_t disk, int64_t id, const char *name, unsigned shift,
                      const BitmapMeta *meta, int64_t *ret_id, GError **error);
bool store_del_bitmap(StoreTxn *txn, int64_t id, GError **error);
/* Makes the rows of bits those of `bits` (NULL: none), given that they are those of `stored`
 * (NULL: whichever there are; of a bitmap that was given up they may be there still). */
bool store_put_bits(StoreTxn *txn, int64_t bitmap, const Bits *bits, const Bits *stored,
                    GError **error);
bool store_put_page(StoreTxn *txn, int64_t bitmap, uint64_t page, BitsPageKind kind,
                    const uint64_t words[BITS_WORDS], GError **error);

/* Every bitmap of a disk of that size, with its bits in `bits` and `stored`. */
bool store_load_bitmaps(StoreTxn *txn, int64_t disk, uint64_t size, GPtrArray *bitmaps,
                        GError **error);

bool store_put_intent(StoreTxn *txn, int64_t disk, uint64_t offset, uint64_t length,
                      GError **error);
bool store_del_intent(StoreTxn *txn, int64_t disk, uint64_t offset, GError **error);
bool store_del_intents(StoreTxn *txn, int64_t disk, GError **error);
/* Those that begin at `offset` or behind it. */
bool store_del_intents_from(StoreTxn *txn, int64_t disk, uint64_t offset, GError **error);
/* function(offset, length, data) for each, in order. */
bool store_load_intents(StoreTxn *txn, int64_t disk,
                        void (*function)(uint64_t offset, uint64_t length, gpointer data),
                        gpointer data, GError **error);

bool store_load_watch(StoreTxn *txn, int64_t disk, WatchRow *ret_row, GError **error);
bool store_put_watch(StoreTxn *txn, int64_t disk, const WatchRow *row, GError **error);
bool store_del_watch(StoreTxn *txn, int64_t disk, GError **error);
/* The disk is being written: not clean, and this far. NOT_FOUND: there is no row. */
bool store_put_sequence(StoreTxn *txn, int64_t disk, int64_t sequence, GError **error);
bool store_put_size(StoreTxn *txn, int64_t disk, uint64_t size, GError **error);
/* Writes have happened that the disk's disabled bitmaps do not have. */
bool store_put_missed_writes(StoreTxn *txn, int64_t disk, GError **error);

#endif
