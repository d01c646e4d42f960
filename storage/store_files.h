/* The database as files: opening whatever is there, replacing it as a whole, copies, salvage.
 * Store thread only, or before it runs. */
#ifndef STORAGE_STORE_FILES_H
#define STORAGE_STORE_FILES_H

#include "storage/store_private.h"

/* Opens DIR/state.db into store->db. One that is damaged is kept aside, and what could be read of
 * it taken over; store->notice says so. */
bool store_files_open(Store *store, GError **error);

/* Finishes a replacement that was cut short, or forgets one that had not come to count. */
bool store_files_settle(const char *path, GError **error);

/* After a COMMIT that failed: the database anew, without that transaction. When it fails it can be
 * tried again; nothing may be committed before it has worked. */
bool store_files_rebuild(Store *store, GError **error);

/* Makes the name of a file durable. */
bool store_files_sync_directory(const char *file, GError **error);

/* storage/store_salvage.c: copies into db, new and empty, what can be read of the one at `path`.
 * Bitmaps become invalid. */
bool store_salvage(StoreDb *db, const char *path, GError **error);

#endif
