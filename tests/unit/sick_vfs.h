/* An SQLite VFS that can be made to fail, below every connection opened after it was registered.
 * It is the default VFS of the process from then on. */
#ifndef UNIT_SICK_VFS_H
#define UNIT_SICK_VFS_H

#include <stdatomic.h>

/* While not 0, calls of that kind fail: a write with "disk full", a sync after it was done, as the
 * page cache does it. A positive number counts down to 0; -1 is for good. */
extern _Atomic int sick_writes, sick_syncs;
/* All calls so far that could have failed, of whatever kind; the one whose number sick_call is
 * fails, once. */
extern _Atomic long sick_calls, sick_call;
/* While not NULL, a file that is given what each sync of the log has covered. */
extern const char *sick_keep_synced;

void sick_vfs_register(void);

#endif
