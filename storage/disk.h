/* A disk: a backend with the tracking of its dirty bitmaps on top. The only way to its bytes.
 *
 * Reference-counted. I/O calls are thread-safe, answer 0 or a negative errno and check nothing:
 * the caller keeps offset + length <= disk_size(). Every call that changes contents first makes
 * the record of it durable (design: intents), so any of them may wait for the store thread; with
 * IO_NOWAIT they answer -EAGAIN instead of waiting for anything, and have then changed no data. */
#ifndef STORAGE_DISK_H
#define STORAGE_DISK_H

#include "storage/backend.h"
#include "storage/bitmap.h"
#include "storage/store.h"

typedef struct Disk Disk;

/* --- life (blocking calls: never on the main thread) --- */

/* Opens the backing file and reads back, and where needed recovers, the bitmaps stored for the
 * disk of this name. row: its StoreDisk.id; NOT_FOUND when that has been deleted meanwhile (a file
 * may take its time to open), also when another disk has the name by now. 0: whichever has it. */
Disk *disk_open(Store *store, int64_t row, const char *name, const char *path, bool read_only,
                CacheMode cache, GError **error);
/* The same for a disk whose row follows later: it has no bitmaps. What the store has under that
 * name is another disk's, which is still open perhaps, and is about to be removed. */
Disk *disk_open_new(Store *store, const char *name, const char *path, bool read_only,
                    CacheMode cache, GError **error);
/* A disk that was not open was removed: its page is of no use any more. */
void disk_forget(Store *store, const char *name);
Disk *disk_ref(Disk *disk);
void disk_unref(Disk *disk); /* the last one closes without storing: see disk_close_clean */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Disk, disk_unref)

/* Nothing is in flight any more: sync the data, store the exact bits, set the clean flag. */
bool disk_close_clean(Disk *disk, GError **error);
/* Stores what has changed and retires quiet regions; also done in the background. */
bool disk_checkpoint(Disk *disk, GError **error);

const char *disk_name(const Disk *disk);
const Backend *disk_backend(const Disk *disk); /* properties only; I/O goes through the disk */
uint64_t disk_size(const Disk *disk);          /* bytes; changes with disk_refresh */
bool disk_refresh(Disk *disk, GError **error); /* the file grew (or shrank) */

/* --- data path (any thread) --- */
int disk_pread(Disk *disk, void *buffer, size_t length, uint64_t offset, unsigned flags);
int disk_pwrite(Disk *disk, const void *buffer, size_t length, uint64_t offset, unsigned flags);
int disk_zero(Disk *disk, uint64_t offset, uint64_t length, unsigned flags);
int disk_trim(Disk *disk, uint64_t offset, uint64_t length, unsigned flags);
int disk_flush(Disk *disk);
int disk_extents(Disk *disk, uint64_t offset, uint64_t length, ExtentList *list);
/* The run that begins at offset, as far as it is alike, at most length > 0: what others write past
 * the lock is never called a hole, so zeroes may be sent for one. */
int disk_run_to_read(Disk *disk, uint64_t offset, uint64_t length, uint64_t *ret_length,
                     bool *ret_hole);
int disk_prefetch(Disk *disk, uint64_t offset, uint64_t length);

/* Asks that a write to the range be admitted without waiting. 0: it would be now. -EINPROGRESS:
 * waiter->ready runs once, later, on another thread (it must not block), then try again. */
typedef struct DiskWaiter DiskWaiter;
struct DiskWaiter {
    void (*ready)(DiskWaiter *waiter);
    DiskWaiter *next; /* the disk's */
};
int disk_prepare_write(Disk *disk, uint64_t offset, uint64_t length, DiskWaiter *waiter);

/* --- bitmaps (any thread) --- */
Bitmap *disk_find_bitmap(Disk *disk, const char *name); /* a reference, or NULL */
GPtrArray *disk_list_bitmaps(Disk *disk);               /* of references, in order of names */

/* --- changes of the set of bitmaps: instants of the write stream (blocking calls) ---
 *
 * A change is prepared in steps and takes effect as a whole: begin; any number of operations, each
 * of which checks itself against those before it and can fail, without effect; then commit (in the
 * store, with whatever else belongs to the same transaction) or abort. One at a time per disk. */
typedef struct DiskChange DiskChange;

/* Waits for another change on the same disk until the deadline (g_get_monotonic_time()), then
 * fails with TIMEOUT. */
DiskChange *disk_change_begin(Disk *disk, gint64 deadline, GError **error);
bool disk_change_add(DiskChange *change, const char *name, uint32_t granularity, bool recording,
                     BitmapDurability durability, GError **error);
/* if_generation: NULL, or the change fails with STATE unless the bitmap has this one. */
bool disk_change_remove(DiskChange *change, const char *name, const char *if_generation,
                        GError **error);
bool disk_change_clear(DiskChange *change, const char *name, const char *if_generation,
                       GError **error);
bool disk_change_enable(DiskChange *change, const char *name, const char *if_generation,
                        GError **error);
bool disk_change_disable(DiskChange *change, const char *name, const char *if_generation,
                         GError **error);
/* ORs sources into target. The empty list, target among the sources: fine. Finer into coarser and
 * back both over-report, never under. An invalid source or target: STATE. */
bool disk_change_merge(DiskChange *change, const char *target, const char *const *sources,
                       const char *if_generation, GError **error);
/* The bitmap as it would be, NULL if there would be none. False: no such bitmap. */
bool disk_change_preview(DiskChange *change, const char *name, BitmapInfo *ret_info);
GPtrArray *disk_change_preview_names(DiskChange *change); /* of char*, sorted */

/* Closes the gates: fdatasyncs each disk while writes flow, then holds new writes and waits for
 * those in flight (all disks of one transaction before any is stored). A failure (TIMEOUT when the
 * deadline passed) opens them. Each disk at most once. */
bool disk_change_freeze(DiskChange *const *changes, size_t count, gint64 deadline, GError **error);
/* Inside the transaction (StoreFunction): writes the rows. */
bool disk_change_store(DiskChange *change, StoreTxn *txn, GError **error);
/* After the transaction: puts the new set in force, or drops it; opens the gate; frees change. */
void disk_change_finish(DiskChange *change, bool committed);

#endif
