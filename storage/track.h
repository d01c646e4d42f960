/* What makes dirty bits survive: see track.c. One for each disk.
 *
 * Writers meet it inside the disk's gate (track.c); the store thread commits what they ask for
 * and retires what has gone quiet (track_commit.c); opening and closing a disk load and store the
 * whole (track_load.c). */
#ifndef STORAGE_TRACK_H
#define STORAGE_TRACK_H

#include "storage/bitmap_private.h"
#include "storage/disk.h"
#include "storage/disk_page.h"
#include "storage/store_private.h"

typedef struct DiskTrack DiskTrack;

/* One of what is recording, as writers see it. */
typedef struct {
    Bits *bits;
    const Bits *stored; /* NULL: nothing of it need be in the store before a write */
    unsigned shift;
} Recorder;

DiskTrack *track_new(Disk *disk);
void track_free(DiskTrack *track);

/* --- writers --- */

/* Inside the gate: records that [offset, end) is about to change.
 * 0: the record is as durable as it must be, and the change may begin.
 * -EAGAIN: it has been asked for; leave the gate, wait for the ticket, try again.
 * -EIO: it cannot be made durable, and has not been for a while. */
int track_admit(DiskTrack *track, uint64_t offset, uint64_t end, uint64_t *ret_ticket);
void track_wait(DiskTrack *track, uint64_t ticket);
/* waiter->ready runs when the ticket has been dealt with. False: it has been. */
bool track_notify(DiskTrack *track, uint64_t ticket, DiskWaiter *waiter);

/* Around the change itself, when something is recorded: keeps the time of the last write. */
void track_write_begins(DiskTrack *track);
void track_write_ended(DiskTrack *track);

/* --- changes of what records, with the gate closed --- */

/* Makes the record set anew from the disk's bitmaps and `extra` (may be NULL; `count` of them). */
void track_set_recorders(DiskTrack *track, const Recorder *extra, unsigned count);
/* Any time: frees bits that writers may be using when the record set is next replaced. */
void track_discard(DiskTrack *track, Bits *bits);

/* Between these the store thread does not look at the disk's bitmaps, which may be replaced. */
void track_lock(DiskTrack *track);
void track_unlock(DiskTrack *track);

#endif
