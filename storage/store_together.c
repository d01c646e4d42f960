/* One COMMIT for many transactions that come at once: a start has one for each disk, and would wait
 * for as many fsyncs. Each is a savepoint: one that fails is undone, the others stand. */
#include "storage/store_private.h"

struct StoreShare {
    StoreFunction function;
    gpointer data;
    GError *error;
    bool ok;
    StoreShare *next;
};

static bool run_one(StoreTxn *txn, StoreShare *share, GError **error)
{
    if (!store_db_exec(txn->db, error, "SAVEPOINT share"))
        return false;
    share->ok = share->function(txn, share->data, &share->error);
    return (share->ok || store_db_exec(txn->db, error, "ROLLBACK TO share")) &&
           store_db_exec(txn->db, error, "RELEASE share");
}

static bool run_each(StoreTxn *txn, gpointer data, GError **error)
{
    for (StoreShare *share = data; share; share = share->next) {
        if (!run_one(txn, share, error))
            return false;
    }
    return true;
}

/* All that have come so far; who is called when there is nothing left has been served. */
static void run_shares(Store *store, gpointer data)
{
    pthread_mutex_lock(&store->mutex);
    StoreShare *shares = store->shares;
    store->shares = NULL;
    pthread_mutex_unlock(&store->mutex);
    g_autoptr(GError) error = NULL;
    if (shares == NULL || store_run_transaction(store, run_each, shares, &error))
        return;
    for (StoreShare *share = shares; share; share = share->next) {
        share->ok = false;
        if (share->error == NULL)
            share->error = g_error_copy(error);
    }
}

bool store_transact_together(Store *store, StoreFunction function, gpointer data, GError **error)
{
    StoreShare share = {.function = function, .data = data};
    pthread_mutex_lock(&store->mutex);
    share.next = store->shares;
    store->shares = &share;
    pthread_mutex_unlock(&store->mutex);
    store_call(store, run_shares, NULL);
    if (share.error)
        g_propagate_error(error, share.error);
    return share.ok;
}
