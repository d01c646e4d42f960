/* The store: everything durable, in one SQLite database, DIR/state.db.
 *
 * One thread of its own holds the only connection (WAL, synchronous=FULL, locking_mode=EXCLUSIVE)
 * and runs transactions one after the other. Other threads hand it functions and wait. A store
 * also holds the lock on the state directory: a second nbdd on it is refused with LOCKED and the
 * pid of the holder.
 *
 * Rows here are plain data: this layer gives them no meaning beyond their constraints. What the
 * same database holds about bitmaps is disk.h's alone; it stores that by itself, in transactions
 * of its own and in those that disk_change_store() takes part in. */
#ifndef STORAGE_STORE_H
#define STORAGE_STORE_H

#include "storage/error.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Store Store;
typedef struct StoreTxn StoreTxn; /* an open transaction, on the store thread only */

/* What becomes of a write whose record cannot be made durable (the state disk is full or broken)
 * once it has waited for failure_seconds. */
typedef enum {
    STORE_FAILURE_REFUSE,     /* it fails with EIO; bitmaps stay good */
    STORE_FAILURE_INVALIDATE, /* the disk's bitmaps become invalid, durably, and it goes on; should
                                 even that not be possible, it fails */
} StoreFailurePolicy;

typedef struct {
    uint64_t region_size; /* bytes one write intent covers, a power of two of 64 KiB or more;
                             very large disks take a larger one by themselves */
    uint32_t max_intents; /* per disk: after a crash at most this many regions are reported dirty
                             without having been written */
    uint32_t read_ahead;  /* regions a sequential stream is given at once, at most */
    uint32_t
        checkpoint_seconds; /* how often quiet regions are looked for; 0: all the time, for tests */
    uint32_t quiet_seconds; /* a region without a write for so long is retired */
    uint32_t failure_seconds;
    StoreFailurePolicy on_failure;
    const char *runtime_dir; /* for pages that need not survive a reboot; NULL: the state directory.
                                The path must be the same at every start */
} StoreOptions;
extern const StoreOptions store_default_options;

/* Creates dir (mode 0700) if missing, takes the lock, opens, checks and migrates the database. One
 * that is damaged is kept aside and what could be read of it is taken over: see store_notice. */
Store *store_open(const char *dir, GError **error); /* with the default options */
Store *store_open_with(const char *dir, const StoreOptions *options, GError **error);
void store_close(
    Store *store); /* waits for what is queued; every disk has been let go; takes NULL */

/* Called for each bitmap that becomes invalid, also when its disk is opened, once that is durable
 * or will be before anything else is. On whatever thread it happened; no lock of storage's is held,
 * and it must not block. Set before the first disk is opened. */
typedef void (*StoreInvalidated)(const char *disk, const char *bitmap, const char *reason,
                                 gpointer data);
void store_on_invalidated(Store *store, StoreInvalidated function, gpointer data);

/* What the operator must be told about the state as it was found (one line), or NULL. */
const char *store_notice(const Store *store);

/* Writes a consistent copy of the live database to file, which must not exist. Blocks. The copy
 * knows that it is one: a daemon started on it trusts a bitmap only where the disk can be shown not
 * to have been written since. */
bool store_backup(Store *store, const char *file, GError **error);

typedef struct {
    uint64_t commits;         /* transactions committed, each one fsync or more */
    uint64_t syncs;           /* fsyncs of the database and its log, as far as they are known */
    uint64_t intents_added;   /* regions */
    uint64_t intents_retired; /* regions */
    uint64_t failures;        /* transactions that could not be committed */
} StoreStats;
void store_get_stats(Store *store, StoreStats *ret_stats);

/* Runs function on the store thread inside one transaction and waits: commits when it answers
 * true, rolls back otherwise. On false *error says why, and nothing was stored. Any thread but the
 * main one and the store's own. */
typedef bool (*StoreFunction)(StoreTxn *txn, gpointer data, GError **error);
bool store_transact(Store *store, StoreFunction function, gpointer data, GError **error);

typedef struct {
    int64_t id; /* of its row, which no other disk ever has; only read */
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
    int on_busy;                         /* daemon's ExportOnBusy */
    uint32_t max_clients_per_identity;   /* 0: the daemon's default */
    uint64_t iops, iops_burst;           /* operations a second, operations; 0: no limit */
    uint64_t bandwidth, bandwidth_burst; /* bytes a second, bytes; 0: no limit */
} StoreExport;

typedef struct {
    char *name, *address;
    char *credential; /* NULL: none */
    int tls_mode;
    uint32_t max_clients; /* 0: the daemon's default */
} StoreListener;

typedef struct {
    char *name;
    int kind;         /* daemon's TlsKind */
    char *dir, *keys; /* one of them, by kind; the other NULL */
    char *priority;   /* NULL: the default */
    bool verify_client;
} StoreCredential;

void store_disk_free(StoreDisk *row);
void store_export_free(StoreExport *row);
void store_listener_free(StoreListener *row);
void store_credential_free(StoreCredential *row);

/* put: insert, or replace the row of that name. del: fails NOT_FOUND when there is none. Deleting
 * a disk deletes its bitmaps, bits and intents. An export's disk must exist when the transaction
 * commits. Only inside a StoreFunction. */
bool store_put_disk(StoreTxn *txn, const StoreDisk *row, GError **error);
bool store_del_disk(StoreTxn *txn, const char *name, GError **error);
bool store_put_export(StoreTxn *txn, const StoreExport *row, GError **error);
bool store_del_export(StoreTxn *txn, const char *name, GError **error);
bool store_put_listener(StoreTxn *txn, const StoreListener *row, GError **error);
bool store_del_listener(StoreTxn *txn, const char *name, GError **error);
bool store_put_credential(StoreTxn *txn, const StoreCredential *row, GError **error);
bool store_del_credential(StoreTxn *txn, const char *name, GError **error);

/* Everything configured, each array in the order of names; rows owned by the arrays. */
typedef struct {
    GPtrArray *disks, *exports, *listeners, *credentials;
} StoreConfig;
StoreConfig *store_load_config(Store *store, GError **error);
void store_config_free(StoreConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreConfig, store_config_free)

#endif
