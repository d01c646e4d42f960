/* The store: everything durable, in one SQLite database, DIR/state.db.
 *
 * One thread of its own holds the only connection (WAL, synchronous=FULL, locking_mode=EXCLUSIVE)
 * and runs transactions one after the other. Other threads hand it functions and wait. A store
 * also holds the lock on the state directory: a second nbdd on it is refused with LOCKED and the
 * pid of the holder.
 *
 * Rows here are plain data: this layer gives them no meaning beyond their constraints. */
#ifndef STORAGE_STORE_H
#define STORAGE_STORE_H

#include "storage/error.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Store Store;
typedef struct StoreTxn StoreTxn; /* an open transaction, on the store thread only */

/* Creates dir (mode 0700) if missing, takes the lock, opens and migrates the database. */
Store *store_open(const char *dir, GError **error);
void store_close(Store *store); /* waits for what is queued; takes NULL */

/* Runs function on the store thread inside one transaction and waits: commits when it answers
 * true, rolls back otherwise. On false *error says why, and nothing was stored. Any thread but the
 * main one and the store's own. */
typedef bool (*StoreFunction)(StoreTxn *txn, gpointer data, GError **error);
bool store_transact(Store *store, StoreFunction function, gpointer data, GError **error);

typedef struct {
    char *name, *path;
    bool read_only;
    int cache;     /* CacheMode */
    bool implicit; /* made by export.add path=...: goes with its last export if it has no bitmaps */
} StoreDisk;

typedef struct {
    char *name, *disk, *description; /* description may be NULL */
    bool read_only;
    int sharing;          /* daemon's SharingMode */
    uint32_t max_clients; /* 0: the daemon's default */
    char **bitmaps;       /* NULL: every bitmap of the disk, now or later */
    char **allow;         /* NULL: everyone; empty: nobody */
    bool tls_required;
} StoreExport;

typedef struct {
    char *name, *address;
    char *credential; /* NULL: none */
    int tls_mode;
    uint32_t max_clients; /* 0: the daemon's default */
} StoreListener;

void store_disk_free(StoreDisk *row);
void store_export_free(StoreExport *row);
void store_listener_free(StoreListener *row);

/* put: insert, or replace the row of that name. del: fails NOT_FOUND when there is none. Deleting
 * a disk deletes its bitmaps, bits and intents. Only inside a StoreFunction. */
bool store_put_disk(StoreTxn *txn, const StoreDisk *row, GError **error);
bool store_del_disk(StoreTxn *txn, const char *name, GError **error);
bool store_put_export(StoreTxn *txn, const StoreExport *row, GError **error);
bool store_del_export(StoreTxn *txn, const char *name, GError **error);
bool store_put_listener(StoreTxn *txn, const StoreListener *row, GError **error);
bool store_del_listener(StoreTxn *txn, const char *name, GError **error);

/* Everything configured, each array in the order of names; rows owned by the arrays. */
typedef struct {
    GPtrArray *disks, *exports, *listeners;
} StoreConfig;
StoreConfig *store_load_config(Store *store, GError **error);
void store_config_free(StoreConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreConfig, store_config_free)

#endif
