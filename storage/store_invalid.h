/* Bitmaps made invalid while the database cannot be written: a small file whose blocks exist from
 * the start and are overwritten in place with O_DSYNC, which needs no room on a full disk.
 *
 * A record is a sector with a bitmap's generation and the reason. The next start carries them into
 * the database, as does the store thread once it can commit again. Thread-safe; blocks. */
#ifndef STORAGE_STORE_INVALID_H
#define STORAGE_STORE_INVALID_H

#include "storage/store_private.h"

typedef struct StoreInvalid StoreInvalid;

/* DIR/invalid, made if need be. */
StoreInvalid *store_invalid_open(const char *dir, GError **error);
void store_invalid_close(StoreInvalid *invalid); /* takes NULL */

/* Durable once it answers true. */
bool store_invalid_put(StoreInvalid *invalid, const char *generation, const char *reason,
                       GError **error);
/* The database has it, or no bitmap has that generation any more. */
void store_invalid_forget(StoreInvalid *invalid, const char *generation);

/* Store thread, before any disk is opened: makes the rows of what is recorded invalid, and forgets
 * the records once that is committed. */
bool store_invalid_apply(StoreInvalid *invalid, Store *store, GError **error);

#endif
