/* Watching the backing file for changes behind the daemon's back.
 *
 * At a clean stop the store keeps what the file looked like; any difference at the next open means
 * that somebody else wrote. After an unclean stop there is no such record: then the disk's page
 * (disk_page.h) says when our own last write was, and a later change of the file is not ours.
 *
 * The state itself may be put back from an older copy. Every commit about a disk carries a sequence
 * number, and the file is marked with the last one in an extended attribute, after the commit: a
 * file that has seen more than the state knows condemns the state. Numbers never come twice, not
 * even on either side of an older copy that was put back: see watch_fresh_sequence. */
#ifndef STORAGE_DISK_WATCH_H
#define STORAGE_DISK_WATCH_H

#include "storage/backend.h"
#include "storage/bitmap.h"
#include "storage/disk_page.h"

typedef struct {
    uint64_t size;
    char filesystem[40]; /* its id in hexadecimal; empty for a block device */
    int64_t inode;
    int64_t birth; /* nanoseconds; 0: unknown */
    int64_t mtime, ctime;
    uint64_t diskseq, sectors_written; /* of a block device: comparable within one boot */
} WatchIdentity;

typedef struct {
    bool present; /* there is a row */
    bool clean;
    int64_t sequence;
    char boot[40];
    WatchIdentity identity;
} WatchRow;

const char *watch_boot_id(void); /* of the running system; thread-safe */
/* When it booted, nanoseconds since the epoch. */
int64_t watch_boot_time(void);

bool watch_identify(const Backend *backend, WatchIdentity *ret_identity, GError **error);
/* What can be noticed for such a backend. */
BitmapWatch watch_reach(const Backend *backend);

/* Why the bitmaps cannot be trusted, or NULL: whether the disk can have been written by others
 * since row was stored, or row be older than what the disk has seen. *ret_last_write becomes the
 * time up to which changes are known to be ours. */
char *watch_judge(const Backend *backend, const char *store_id, const WatchRow *row,
                  const WatchIdentity *now, const DiskPageRemains *remains,
                  int64_t *ret_last_write);

/* Whether the file was changed later than at `last_write`, the time of our last write: by others,
 * as long as none of ours is under way. False where the file's times do not tell. */
bool watch_changed(const WatchIdentity *now, int64_t last_write);
extern const char watch_changed_reason[];

/* A number above all that the state, the page and the file know of, and above all that were ever
 * given before now, which a copy of the state may have: whoever begins to count (a process that
 * opens the disk) begins here. */
int64_t watch_fresh_sequence(const Backend *backend, const char *store_id, const WatchRow *row,
                             const DiskPageRemains *remains);

/* Makes the file's times and mark durable; a device has none. The contents are synced already. */
bool watch_settle(const Backend *backend, GError **error);

/* Marks the file. False: it cannot be marked (not an error: watch_judge then does without). */
bool watch_mark(const Backend *backend, const char *store_id, int64_t sequence);

#endif
