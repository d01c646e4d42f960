/* The keeper: a thread that does, some time after the store thread has committed, what touches the
 * disks' own files and so may hang with them: marking a file with how far the state has come
 * (disk_watch.h). Nobody waits for it. */
#ifndef STORAGE_STORE_KEEPER_H
#define STORAGE_STORE_KEEPER_H

#include "storage/disk.h"

typedef struct StoreKeeper StoreKeeper;

StoreKeeper *store_keeper_new(void);         /* NULL: no thread to be had */
void store_keeper_free(StoreKeeper *keeper); /* after what it is at; takes NULL */

/* Takes over the reference. Never blocks. */
void store_keeper_mark(StoreKeeper *keeper, Disk *disk);

#endif
