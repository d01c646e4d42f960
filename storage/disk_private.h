/* Inside a disk: for storage/disk*.c and track*.c alone.
 *
 * Lock order, outermost first: the disk's change (disk_change_begin .. finish), its closed gate,
 * DiskTrack.commit_lock, Disk.lock, DiskTrack.lock, Bitmap.lock, Store.mutex. */
#ifndef STORAGE_DISK_PRIVATE_H
#define STORAGE_DISK_PRIVATE_H

#include "storage/bitmap_private.h"
#include "storage/disk.h"
#include "storage/disk_gate.h"
#include "storage/extent_cache.h"
#include "storage/track.h"
#include <pthread.h>
#include <stdatomic.h>

#define DISK_MAX_BITMAPS 128

struct Disk {
    _Atomic unsigned references;
    char *name;
    Backend *backend;
    Store *store;
    _Atomic uint64_t size; /* that the bitmaps cover */
    DiskGate gate;         /* its word is in the track's page */
    DiskTrack *track;
    ExtentCache extents;

    pthread_mutex_t lock;
    pthread_cond_t change_ended;
    bool changing;      /* there is a DiskChange */
    bool attached;      /* the store thread knows the track; the gate is in use */
    bool closed;        /* disk_close_clean was here: the gate stays closed */
    GPtrArray *bitmaps; /* of Bitmap references, in order of names */
};

/* disk->bitmaps, under disk->lock; no reference is taken. */
Bitmap *disk_lookup_bitmap(Disk *disk, const char *name);

/* Everything that changes contents does so between these two. begin: IO_NOWAIT is heeded; 0 means
 * that the write is recorded as durably as it must be, and is inside the gate until end, which any
 * thread may call; -ENOSPC that the disk has shrunk, and the range is not all inside it any more.
 */
int disk_write_begin(Disk *disk, uint64_t offset, uint64_t length, unsigned flags);
void disk_write_end(Disk *disk);

/* The store has failed for long, and a write is not to fail for it (StoreOptions.on_failure): makes
 * the disk's bitmaps invalid, durably. False: it is to fail. */
bool disk_give_up_bitmaps(Disk *disk);

/* Tells of the bitmaps that have become invalid (store_on_invalidated). No lock is held. */
void disk_report_invalid(Disk *disk);

/* Inside the gate (or `closed`, by oneself): whether others have changed the file since our last
 * write. That stays noted until the bitmaps say so. False also while it cannot be told, since there
 * are more in the gate. */
bool disk_is_changed(Disk *disk, bool closed);
/* Gate closed: where that is so, the bitmaps become invalid. False: the store could not keep it. */
bool disk_settle_changed(Disk *disk, GError **error);
/* Looks, and closes the gate for that if need be. No lock is held. */
void disk_notice(Disk *disk);

/* Marks the backing file with how far the state has come (disk_watch.h). May hang with the file. */
void disk_mark(Disk *disk);
/* A reference, unless the last one is gone already. */
Disk *disk_ref_alive(Disk *disk);

/* One change at a time, until the deadline (G_MAXINT64: no end). */
bool disk_change_lock(Disk *disk, gint64 deadline, GError **error);
void disk_change_unlock(Disk *disk);

#endif
