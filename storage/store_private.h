/* Inside the store: its thread's loop, the database behind it, and what the trackers of disks do
 * on that thread. Only storage/store*.c, track*.c and disk*.c include this.
 *
 * Lock order: Store.mutex is taken last and never held across a call into SQLite. */
#ifndef STORAGE_STORE_PRIVATE_H
#define STORAGE_STORE_PRIVATE_H

#include "storage/store.h"
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

typedef struct StoreRequest StoreRequest;
typedef struct StoreShare StoreShare;

/* --- the database: store_db.c. Only the store thread calls these, once it runs --- */

typedef struct {
    char *path;
    sqlite3 *handle;
    GHashTable *statements; /* SQL text (static strings, by address) -> sqlite3_stmt */
    int wal_frames;         /* in the log since it was last copied back */
    bool empty;             /* it was, when it was opened */
} StoreDb;

/* Opens and, when it is new or old, migrates. CORRUPT when it is damaged. */
bool store_db_open(StoreDb *db, const char *path, GError **error);
void store_db_close(StoreDb *db);
void store_db_abandon(StoreDb *db);               /* closes without copying the log back */
bool store_db_check(StoreDb *db, GError **error); /* quick_check */
/* Copies the log back into the database. */
bool store_db_checkpoint(StoreDb *db, GError **error);
void store_db_set_error(StoreDb *db, GError **error, const char *what);

/* A cached statement, reset, with arguments bound by types: t text, i int64_t, b blob (pointer,
 * int length), n a NULL blob (no argument). NULL on failure. */
sqlite3_stmt *store_db_query(StoreDb *db, GError **error, const char *sql, const char *types, ...);
/* The next row: SQLITE_ROW, SQLITE_DONE (the statement is reset), or -1 with error set. */
int store_db_step(StoreDb *db, sqlite3_stmt *statement, GError **error);
/* A statement without rows. */
bool store_db_run(StoreDb *db, GError **error, const char *sql, const char *types, ...);
bool store_db_exec(StoreDb *db, GError **error, const char *sql);
char *store_column_text(sqlite3_stmt *statement, int column); /* NULL for NULL */

/* --- the thread: store.c --- */

struct StoreTxn {
    Store *store;
    StoreDb *db;
    GArray *doubts; /* of StoreDoubt */
};

struct Store {
    char *dir;
    char *runtime_dir;
    char *notice;
    StoreOptions options;
    int lock_fd;
    StoreDb db; /* the store thread's */
    char *id;   /* UUID of the database, constant once open */

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;         /* for the store thread */
    StoreRequest *first, **last; /* of other threads, in order */
    StoreShare *shares;          /* that wait for one COMMIT: store_together.c */
    bool stopping;
    bool work; /* some disk wants intents */

    /* The store thread's. */
    bool broken;          /* a COMMIT failed: nothing is committed before the database is rebuilt */
    gint64 failing_since; /* g_get_monotonic_time(), 0: it is not */
    gint64 retry_at;      /* ... 0: nothing to try again */
    GPtrArray *trackers;  /* of DiskTrack, not owned */
    GPtrArray *doubtful;  /* DiskTrack's, of disks that have been let go */

    StoreInvalidated invalidated; /* constant once a disk is open; may be NULL */
    gpointer invalidated_data;

    struct StoreInvalid *invalid;
    struct StoreKeeper *keeper;

    _Atomic uint64_t commits, syncs, intents_added, intents_retired, failures;
};

/* A random UUID (RFC 9562, version 4) straight from the kernel: unlike GLib's, two processes that
 * were one never draw the same. */
char *store_new_uuid(void);

/* Runs function on the store thread, outside a transaction, and waits. */
typedef void (*StoreCall)(Store *store, gpointer data);
void store_call(Store *store, StoreCall function, gpointer data);
/* As store_transact, together with others that come while the thread is busy: store_together.c. */
bool store_transact_together(Store *store, StoreFunction function, gpointer data, GError **error);

/* Store thread: one transaction around function, as store_transact does it. */
bool store_run_transaction(Store *store, StoreFunction function, gpointer data, GError **error);

/* Store thread, inside a transaction: should its COMMIT fail, which leaves it in doubt whether the
 * transaction happened, function(data) runs before anything else does. */
void store_txn_on_doubt(StoreTxn *txn, void (*function)(gpointer data), gpointer data);

/* Store thread, after a transaction that writers wait for: answers whether failures have lasted so
 * long that they are not to wait any more; sees to it that it is tried again. */
bool store_note_outcome(Store *store, bool ok);

/* Any thread: the store thread is to call track_commit_demands() soon. */
void store_wake(Store *store);

#endif
