/* Inside a disk: for storage/disk*.c and track*.c alone.
 *
 * Lock order, outermost first: the disk's change (disk_change_begin .. finish), its closed gate,
 * DiskTrack.commit_lock, Disk.lock, DiskTrack.lock, Bitmap.lock, Store.mutex. */
#ifndef STORAGE_DISK_PRIVATE_H
#define STORAGE_DISK_PRIVATE_H

#include "storage/bitmap_private.h"
#include "storage/disk.h"
#include "storage/disk_gate.h"
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
    _Atomic uint64_t gate_state;
    DiskGate gate;
    DiskTrack *track;

    pthread_mutex_t lock;
    pthread_cond_t change_ended;
    bool changing;      /* there is a DiskChange */
    bool closed;        /* disk_close_clean was here: the gate stays closed */
    GPtrArray *bitmaps; /* of Bitmap references, in order of names */
};

/* disk->bitmaps, under disk->lock; no reference is taken. */
Bitmap *disk_lookup_bitmap(Disk *disk, const char *name);

/* One change at a time, until the deadline (G_MAXINT64: no end). */
bool disk_change_lock(Disk *disk, gint64 deadline, GError **error);
void disk_change_unlock(Disk *disk);

#endif
