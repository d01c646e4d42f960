/* What makes dirty bits survive: see track.c. One for each disk. */
#ifndef STORAGE_TRACK_H
#define STORAGE_TRACK_H

#include "storage/bitmap_private.h"
#include "storage/disk.h"
#include "storage/store_private.h"

typedef struct DiskTrack DiskTrack;

/* One of what is recording, as writers see it. */
typedef struct {
    Bits *bits;
    const Bits *stored; /* NULL: nothing of it need be durable before a write */
    unsigned shift;
} Recorder;

/* All of it; replaced as a whole while the gate is closed. */
typedef struct {
    unsigned count;
    bool durable; /* some `stored` is not NULL */
    Recorder recorders[];
} RecordSet;

DiskTrack *track_new(Disk *disk);
void track_free(DiskTrack *track);

/* Makes the record set anew from the disk's bitmaps and `extra` (may be NULL; `count` of them).
 * Gate closed. */
void track_set_recorders(DiskTrack *track, const Recorder *extra, unsigned count);

/* Frees bits that are, or may be, in the record set, when that is next replaced. */
void track_discard(DiskTrack *track, Bits *bits);

/* Inside the gate: records that [offset, end) is about to change. True: the record is durable as
 * far as it must be, and the change may begin. False: leave the gate and wait. */
bool track_admit(DiskTrack *track, uint64_t offset, uint64_t end);

#endif
