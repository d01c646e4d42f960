/* The store's life and its thread: one loop that runs what others hand it, one after the other. */
#include "storage/store_private.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Frames in the log after which it is copied back even though there is other work. */
#define WAL_FRAMES_MANY 4000
/* ... and in a quiet moment. */
#define WAL_FRAMES_SOME 200

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

void store_txn_on_doubt(StoreTxn *txn, void (*function)(gpointer data), gpointer data)
{
    StoreDoubt doubt = {function, data};
    g_array_append_val(txn->doubts, doubt);
}

bool store_run_transaction(Store *store, StoreFunction function, gpointer data, GError **error)
{
    if (!store_db_exec(&store->db, error, "BEGIN IMMEDIATE"))
        return false;
    g_autoptr(GArray) doubts = g_array_new(FALSE, FALSE, sizeof(StoreDoubt));
    StoreTxn txn = {store, &store->db, doubts};
    if (!function(&txn, data, error)) {
        store_db_exec(&store->db, NULL, "ROLLBACK");
        return false;
    }
    int before = sqlite3_total_changes(store->db.handle);
    if (store_db_exec(&store->db, error, "COMMIT")) {
        (void)before;
        atomic_fetch_add(&store->commits, 1);
        return true;
    }
    store_db_exec(&store->db, NULL, "ROLLBACK");
    atomic_fetch_add(&store->failures, 1);
    for (guint i = 0; i < doubts->len; i++) {
        StoreDoubt *doubt = &g_array_index(doubts, StoreDoubt, i);
        doubt->function(doubt->data);
    }
    return false;
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

static void tidy_log(Store *store, bool quiet)
{
    if (store->db.wal_frames >= (quiet ? WAL_FRAMES_SOME : WAL_FRAMES_MANY))
        store_db_checkpoint(&store->db, NULL); /* tried again later: the log only grows longer */
}

static void *store_thread(void *data)
{
    Store *store = data;
    pthread_mutex_lock(&store->mutex);
    for (;;) {
        StoreRequest *request = store->first;
        if (request) {
            store->first = request->next;
            if (store->first == NULL)
                store->last = &store->first;
            pthread_mutex_unlock(&store->mutex);
            request->function(store, request->data);
            tidy_log(store, false);
            pthread_mutex_lock(&store->mutex);
            request->done = true;
            pthread_cond_signal(&request->answered);
        } else if (store->stopping) {
            break;
        } else {
            pthread_cond_wait(&store->wake, &store->mutex);
        }
    }
    pthread_mutex_unlock(&store->mutex);
    tidy_log(store, true);
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
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    pthread_mutex_destroy(&store->mutex);
    pthread_cond_destroy(&store->wake);
    g_ptr_array_unref(store->trackers);
    g_free(store->dir);
    g_free(store->runtime_dir);
    g_free(store->notice);
    g_free(store->id);
    g_free(store);
}

static bool open_everything(Store *store, GError **error)
{
    if (g_mkdir_with_parents(store->dir, 0700) < 0) {
        storage_error_set_errno(error, errno, "cannot make the state directory %s", store->dir);
        return false;
    }
    g_autofree char *path = g_build_filename(store->dir, "state.db", NULL);
    return lock_directory(store, error) && store_db_open(&store->db, path, error);
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
    int errnum = pthread_create(&store->thread, NULL, store_thread, store);
    if (errnum != 0) {
        storage_error_set_errno(error, errnum, "cannot start the store thread");
        store_free(store);
        return NULL;
    }
    return store;
}

Store *store_open(const char *dir, GError **error)
{
    return store_open_with(dir, &store_default_options, error);
}

void store_close(Store *store)
{
    if (store == NULL)
        return;
    pthread_mutex_lock(&store->mutex);
    store->stopping = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->mutex);
    pthread_join(store->thread, NULL);
    store_free(store);
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
