/* The store's life and its thread: one loop that runs what others hand it, one after the other. */
#include "storage/fault.h"
#include "storage/store_files.h"
#include "storage/store_invalid.h"
#include "storage/store_keeper.h"
#include "storage/track_private.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Frames in the log after which it is copied back even though there is other work. */
#define WAL_FRAMES_MANY 4000
/* ... and in a quiet moment. */
#define WAL_FRAMES_SOME 200
/* How soon what failed is tried again. */
#define RETRY_USEC (250 * 1000)

const StoreOptions store_default_options = {
    .region_size = 4 << 20,
    .max_intents = 2048,
    .read_ahead = 16,
    .checkpoint_seconds = 2,
    .quiet_seconds = 6,
    .failure_seconds = 10,
    .on_failure = STORE_FAILURE_REFUSE,
};

struct StoreRequest {
    StoreCall function;
    gpointer data;
    bool done;
    pthread_cond_t answered;
    StoreRequest *next;
};

typedef struct {
    void (*function)(gpointer data);
    gpointer data;
} StoreDoubt;

char *store_new_uuid(void)
{
    uint8_t b[16];
    if (getrandom(b, sizeof b, 0) != sizeof b)
        g_error("no random numbers to be had"); /* cannot happen once the system is up */
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    return g_strdup_printf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                           b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
                           b[12], b[13], b[14], b[15]);
}

void store_txn_on_doubt(StoreTxn *txn, void (*function)(gpointer data), gpointer data)
{
    StoreDoubt doubt = {function, data};
    g_array_append_val(txn->doubts, doubt);
}

static void doubt(Store *store, const GArray *doubts)
{
    store->broken = true;
    store->retry_at = g_get_monotonic_time() + RETRY_USEC;
    for (guint i = 0; i < doubts->len; i++) {
        StoreDoubt *item = &g_array_index(doubts, StoreDoubt, i);
        item->function(item->data);
    }
}

bool store_run_transaction(Store *store, StoreFunction function, gpointer data, GError **error)
{
    if (store->broken) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_IO,
                    "the state database could not be written, and is being rebuilt");
        return false;
    }
    if (!store_db_exec(&store->db, error, "BEGIN IMMEDIATE"))
        return false;
    g_autoptr(GArray) doubts = g_array_new(FALSE, FALSE, sizeof(StoreDoubt));
    StoreTxn txn = {store, &store->db, doubts};
    if (!function(&txn, data, error)) {
        store_db_exec(&store->db, NULL, "ROLLBACK");
        return false;
    }
    int frames = store->db.wal_frames;
    if (store_db_exec(&store->db, error, "COMMIT") || fault("failed-commit-trusted")) {
        if (store->db.wal_frames != frames) { /* otherwise it had nothing to write */
            atomic_fetch_add(&store->commits, 1);
            atomic_fetch_add(&store->syncs, 1);
        }
        return true;
    }
    /* A constraint is looked at before anything is written; of all else nobody knows how far it
     * came. */
    bool doubtful = (sqlite3_errcode(store->db.handle) & 0xff) != SQLITE_CONSTRAINT &&
                    !fault("failed-commit-undone");
    store_db_exec(&store->db, NULL, "ROLLBACK");
    if (!doubtful)
        return false;
    atomic_fetch_add(&store->failures, 1);
    doubt(store, doubts);
    return false;
}

bool store_note_outcome(Store *store, bool ok)
{
    gint64 now = g_get_monotonic_time();
    if (ok) {
        store->failing_since = 0;
        return false;
    }
    if (store->failing_since == 0)
        store->failing_since = now;
    store->retry_at = now + RETRY_USEC;
    return now - store->failing_since >= (gint64)store->options.failure_seconds * G_USEC_PER_SEC;
}

void store_call(Store *store, StoreCall function, gpointer data)
{
    StoreRequest request = {.function = function, .data = data};
    pthread_cond_init(&request.answered, NULL);
    pthread_mutex_lock(&store->mutex);
    *store->last = &request;
    store->last = &request.next;
    pthread_cond_signal(&store->wake);
    while (!request.done)
        pthread_cond_wait(&request.answered, &store->mutex);
    pthread_mutex_unlock(&store->mutex);
    pthread_cond_destroy(&request.answered);
}

typedef struct {
    StoreFunction function;
    gpointer data;
    GError **error;
    bool ok;
} Transaction;

static void call_transaction(Store *store, gpointer data)
{
    Transaction *transaction = data;
    transaction->ok =
        store_run_transaction(store, transaction->function, transaction->data, transaction->error);
}

bool store_transact(Store *store, StoreFunction function, gpointer data, GError **error)
{
    Transaction transaction = {function, data, error, false};
    store_call(store, call_transaction, &transaction);
    return transaction.ok;
}

void store_wake(Store *store)
{
    pthread_mutex_lock(&store->mutex);
    store->work = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->mutex);
}

static void tidy_log(Store *store, int frames)
{
    if (store->db.wal_frames < frames || store->broken)
        return;
    if (store_db_checkpoint(&store->db, NULL)) /* else later: the log only grows longer */
        atomic_fetch_add(&store->syncs, 2);
}

/* What failed a while ago: once more. */
static void retry(Store *store)
{
    store->retry_at = 0;
    if (store->broken) {
        if (!store_files_rebuild(store, NULL)) {
            store->retry_at = g_get_monotonic_time() + RETRY_USEC;
        } else {
            store->broken = false;
            track_rebuilt(store);
        }
    }
    track_commit_demands(store);
    if (store->failing_since)
        track_probe(store);
}

static gint64 tick_usec(const Store *store)
{
    gint64 seconds = store->options.checkpoint_seconds;
    return seconds ? seconds * G_USEC_PER_SEC : 1000;
}

static gint64 tick(Store *store, gint64 due)
{
    gint64 now = g_get_monotonic_time();
    if (now < due)
        return due;
    track_tick(store);
    tidy_log(store, WAL_FRAMES_SOME);
    return now + tick_usec(store);
}

static void wait_until(Store *store, gint64 due)
{
    struct timespec until = {due / G_USEC_PER_SEC, due % G_USEC_PER_SEC * 1000};
    pthread_cond_timedwait(&store->wake, &store->mutex, &until);
}

static StoreRequest *pop_request(Store *store)
{
    StoreRequest *request = store->first;
    if (request) {
        store->first = request->next;
        if (store->first == NULL)
            store->last = &store->first;
    }
    return request;
}

/* The request is its caller's: it is gone once this has returned. */
static void answer(Store *store, StoreRequest *request)
{
    request->function(store, request->data);
    pthread_mutex_lock(&store->mutex);
    request->done = true;
    pthread_cond_signal(&request->answered);
    pthread_mutex_unlock(&store->mutex);
}

static void *store_thread(void *data)
{
    Store *store = data;
    gint64 due = g_get_monotonic_time() + tick_usec(store);
    pthread_mutex_lock(&store->mutex);
    for (;;) {
        gint64 now = g_get_monotonic_time();
        bool again = store->retry_at && now >= store->retry_at;
        gint64 next = store->retry_at ? MIN(due, store->retry_at) : due;
        bool work = store->work && store->retry_at == 0;
        StoreRequest *request = pop_request(store);
        if (!request && !work && !again && now < next) {
            if (store->stopping)
                break;
            wait_until(store, next);
            continue;
        }
        if (work)
            store->work = false;
        pthread_mutex_unlock(&store->mutex);
        if (work)
            track_commit_demands(store);
        if (again)
            retry(store);
        if (request)
            answer(store, request);
        due = tick(store, due);
        tidy_log(store, WAL_FRAMES_MANY);
        pthread_mutex_lock(&store->mutex);
    }
    pthread_mutex_unlock(&store->mutex);
    return NULL;
}

/* The lock file stays: removing it would let two daemons lock two files of the same name. */
static bool lock_directory(Store *store, GError **error)
{
    g_autofree char *path = g_build_filename(store->dir, "lock", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        storage_error_set_errno(error, errno, "cannot open %s", path);
        return false;
    }
    char text[32];
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int errnum = errno;
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        close(fd);
        if (errnum != EWOULDBLOCK) {
            storage_error_set_errno(error, errnum, "cannot lock %s", path);
            return false;
        }
        text[n > 0 ? n : 0] = 0;
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED,
                    "the state directory %s is in use by process %s", store->dir,
                    n > 0 ? g_strstrip(text) : "unknown");
        return false;
    }
    int length = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, length, 0) < 0) {
        /* The pid is for the other side's message alone; a full disk must not keep us down. */
    }
    store->lock_fd = fd;
    return true;
}

static void store_free(Store *store)
{
    store_db_close(&store->db);
    store_invalid_close(store->invalid);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    pthread_mutex_destroy(&store->mutex);
    pthread_cond_destroy(&store->wake);
    g_ptr_array_unref(store->trackers);
    g_ptr_array_unref(store->doubtful);
    g_free(store->dir);
    g_free(store->runtime_dir);
    g_free(store->notice);
    g_free(store->id);
    g_free(store);
}

static char *read_meta(StoreTxn *txn, const char *key, GError **error)
{
    sqlite3_stmt *s =
        store_db_query(txn->db, error, "SELECT value FROM meta WHERE key = ?1", "t", key);
    char *value = NULL;
    if (s && store_db_step(txn->db, s, error) == SQLITE_ROW) {
        value = store_column_text(s, 0);
        sqlite3_reset(s);
    }
    return value;
}

/* A copy of a live database knows nothing of the writes that came after. Of a file that was closed
 * cleanly its times tell whether there were any; of such a device, its counters within one boot. */
static bool settle_copy(StoreTxn *txn, GError **error)
{
    g_autofree char *copy = read_meta(txn, "copy", error);
    if (copy == NULL)
        return *error == NULL;
    return store_db_run(txn->db, error,
                        "UPDATE bitmaps SET invalid_reason = 'the state database is a copy that "
                        "was made while the disk was being written'"
                        " WHERE invalid_reason IS NULL AND disk NOT IN"
                        " (SELECT disk FROM watch WHERE clean = 1"
                        " AND (filesystem <> '' OR boot = ?1))",
                        "t", watch_boot_id()) &&
           store_db_run(txn->db, error,
                        "DELETE FROM bits WHERE bitmap IN"
                        " (SELECT id FROM bitmaps WHERE invalid_reason IS NOT NULL)",
                        "") &&
           store_db_run(txn->db, error, "DELETE FROM meta WHERE key = 'copy'", "");
}

static bool settle(StoreTxn *txn, gpointer data, GError **error)
{
    Store *store = txn->store;
    GError *local = NULL;
    store->id = read_meta(txn, "id", &local);
    if (store->id == NULL && local == NULL) {
        store->id = store_new_uuid();
        store_db_run(txn->db, &local, "INSERT INTO meta VALUES ('id', ?1)", "t", store->id);
    }
    if (local == NULL)
        settle_copy(txn, &local);
    if (local == NULL)
        return true;
    g_clear_pointer(&store->id, g_free);
    g_propagate_error(error, local);
    return false;
}

static bool open_everything(Store *store, GError **error)
{
    if (g_mkdir_with_parents(store->dir, 0700) < 0) {
        storage_error_set_errno(error, errno, "cannot make the state directory %s", store->dir);
        return false;
    }
    /* Without it disks' pages are plain memory: see disk_page.h. */
    g_mkdir_with_parents(store->runtime_dir, 0755);
    if (!lock_directory(store, error) || !store_files_open(store, error) ||
        !store_run_transaction(store, settle, NULL, error))
        return false;
    store->invalid = store_invalid_open(store->dir, error);
    return store->invalid && store_invalid_apply(store->invalid, store, error);
}

Store *store_open_with(const char *dir, const StoreOptions *options, GError **error)
{
    Store *store = g_new0(Store, 1);
    store->dir = g_strdup(dir);
    store->runtime_dir = g_strdup(options->runtime_dir ? options->runtime_dir : dir);
    store->options = *options;
    store->options.runtime_dir = store->runtime_dir;
    store->lock_fd = -1;
    store->last = &store->first;
    store->trackers = g_ptr_array_new();
    store->doubtful = g_ptr_array_new_with_free_func(g_free);
    pthread_mutex_init(&store->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);

    if (!open_everything(store, error)) {
        store_free(store);
        return NULL;
    }
    store->keeper = store_keeper_new();
    int errnum = pthread_create(&store->thread, NULL, store_thread, store);
    if (errnum != 0) {
        storage_error_set_errno(error, errnum, "cannot start the store thread");
        store_keeper_free(store->keeper);
        store_free(store);
        return NULL;
    }
    return store;
}

Store *store_open(const char *dir, GError **error)
{
    return store_open_with(dir, &store_default_options, error);
}

static void take_keeper(Store *store, gpointer data)
{
    *(StoreKeeper **)data = g_steal_pointer(&store->keeper);
}

void store_close(Store *store)
{
    StoreKeeper *keeper;
    if (store == NULL)
        return;
    /* It may hold the last reference to a disk, for which the store's thread would go to it. */
    store_call(store, take_keeper, &keeper);
    store_keeper_free(keeper);
    pthread_mutex_lock(&store->mutex);
    store->stopping = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->mutex);
    pthread_join(store->thread, NULL);
    store_free(store);
}

void store_on_invalidated(Store *store, StoreInvalidated function, gpointer data)
{
    store->invalidated = function;
    store->invalidated_data = data;
}

const char *store_notice(const Store *store)
{
    return store->notice;
}

void store_get_stats(Store *store, StoreStats *ret_stats)
{
    *ret_stats = (StoreStats){
        .commits = atomic_load(&store->commits),
        .syncs = atomic_load(&store->syncs),
        .intents_added = atomic_load(&store->intents_added),
        .intents_retired = atomic_load(&store->intents_retired),
        .failures = atomic_load(&store->failures),
    };
}
