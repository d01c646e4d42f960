/* The rows of what is configured: disks, exports, listeners, credentials. */
#include "storage/store_private.h"
#include <string.h>

void store_disk_free(StoreDisk *row)
{
    if (row == NULL)
        return;
    g_free(row->name);
    g_free(row->path);
    g_free(row);
}

void store_export_free(StoreExport *row)
{
    if (row == NULL)
        return;
    g_free(row->name);
    g_free(row->disk);
    g_free(row->description);
    g_strfreev(row->bitmaps);
    g_strfreev(row->allow);
    g_free(row);
}

void store_listener_free(StoreListener *row)
{
    if (row == NULL)
        return;
    g_free(row->name);
    g_free(row->address);
    g_free(row->credential);
    g_free(row);
}

void store_credential_free(StoreCredential *row)
{
    if (row == NULL)
        return;
    g_free(row->name);
    g_free(row->dir);
    g_free(row->keys);
    g_free(row->priority);
    g_free(row);
}

static bool deleted_one(StoreTxn *txn, const char *what, const char *name, GError **error)
{
    if (sqlite3_changes(txn->db->handle) > 0)
        return true;
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND, "no %s is called %s", what, name);
    return false;
}

bool store_put_disk(StoreTxn *txn, const StoreDisk *row, GError **error)
{
    /* An upsert, not a REPLACE, which would delete the disk's bitmaps first. */
    return store_db_run(txn->db, error,
                        "INSERT INTO disks (name, path, read_only, cache, implicit)"
                        " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE SET"
                        " path = ?2, read_only = ?3, cache = ?4, implicit = ?5",
                        "ttiii", row->name, row->path, (int64_t)row->read_only, (int64_t)row->cache,
                        (int64_t)row->implicit);
}

bool store_del_disk(StoreTxn *txn, const char *name, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM disks WHERE name = ?1", "t", name) &&
           deleted_one(txn, "disk", name, error);
}

static bool put_list(StoreTxn *txn, const char *delete_sql, const char *insert_sql, int64_t id,
                     char *const *items, GError **error)
{
    if (!store_db_run(txn->db, error, delete_sql, "i", id))
        return false;
    for (int64_t i = 0; items && items[i]; i++) {
        if (!store_db_run(txn->db, error, insert_sql, "iit", id, i, items[i]))
            return false;
    }
    return true;
}

/* *ret_id is 0 when there is no such row. */
static bool find_id(StoreTxn *txn, const char *sql, const char *name, int64_t *ret_id,
                    GError **error)
{
    sqlite3_stmt *statement = store_db_query(txn->db, error, sql, "t", name);
    int code = statement ? store_db_step(txn->db, statement, error) : -1;
    if (code < 0)
        return false;
    *ret_id = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    sqlite3_reset(statement);
    return true;
}

bool store_put_export(StoreTxn *txn, const StoreExport *row, GError **error)
{
    int64_t disk, id;
    if (!find_id(txn, "SELECT id FROM disks WHERE name = ?1", row->disk, &disk, error))
        return false;
    if (disk == 0) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND, "no disk is called %s",
                    row->disk);
        return false;
    }
    return store_db_run(
               txn->db, error,
               "INSERT INTO exports (name, disk, description, read_only, sharing, max_clients,"
               " every_bitmap, everyone, tls_required, on_busy, max_clients_per_identity, iops,"
               " iops_burst, bandwidth, bandwidth_burst)"
               " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
               " ON CONFLICT (name) DO UPDATE SET"
               " disk = ?2, description = ?3, read_only = ?4, sharing = ?5, max_clients = ?6,"
               " every_bitmap = ?7, everyone = ?8, tls_required = ?9, on_busy = ?10,"
               " max_clients_per_identity = ?11, iops = ?12, iops_burst = ?13, bandwidth = ?14,"
               " bandwidth_burst = ?15",
               "titiiiiiiiiiiii", row->name, disk, row->description, (int64_t)row->read_only,
               (int64_t)row->sharing, (int64_t)row->max_clients, (int64_t)(row->bitmaps == NULL),
               (int64_t)(row->allow == NULL), (int64_t)row->tls_required, (int64_t)row->on_busy,
               (int64_t)row->max_clients_per_identity, (int64_t)row->iops, (int64_t)row->iops_burst,
               (int64_t)row->bandwidth, (int64_t)row->bandwidth_burst) &&
           find_id(txn, "SELECT id FROM exports WHERE name = ?1", row->name, &id, error) &&
           put_list(txn, "DELETE FROM export_bitmaps WHERE export = ?1",
                    "INSERT INTO export_bitmaps VALUES (?1, ?2, ?3)", id, row->bitmaps, error) &&
           put_list(txn, "DELETE FROM export_allow WHERE export = ?1",
                    "INSERT INTO export_allow VALUES (?1, ?2, ?3)", id, row->allow, error);
}

bool store_del_export(StoreTxn *txn, const char *name, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM exports WHERE name = ?1", "t", name) &&
           deleted_one(txn, "export", name, error);
}

bool store_put_listener(StoreTxn *txn, const StoreListener *row, GError **error)
{
    return store_db_run(txn->db, error,
                        "INSERT OR REPLACE INTO listeners"
                        " (name, address, credential, tls_mode, max_clients)"
                        " VALUES (?1, ?2, ?3, ?4, ?5)",
                        "tttii", row->name, row->address, row->credential, (int64_t)row->tls_mode,
                        (int64_t)row->max_clients);
}

bool store_del_listener(StoreTxn *txn, const char *name, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM listeners WHERE name = ?1", "t", name) &&
           deleted_one(txn, "listener", name, error);
}

bool store_put_credential(StoreTxn *txn, const StoreCredential *row, GError **error)
{
    return store_db_run(txn->db, error,
                        "INSERT OR REPLACE INTO credentials"
                        " (name, kind, dir, keys, priority, verify_client)"
                        " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        "tittti", row->name, (int64_t)row->kind, row->dir, row->keys, row->priority,
                        (int64_t)row->verify_client);
}

bool store_del_credential(StoreTxn *txn, const char *name, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM credentials WHERE name = ?1", "t", name) &&
           deleted_one(txn, "credential", name, error);
}

static bool load_disks(StoreTxn *txn, GPtrArray *rows, GError **error)
{
    sqlite3_stmt *s = store_db_query(txn->db, error,
                                     "SELECT name, path, read_only, cache, implicit, id FROM disks"
                                     " ORDER BY name",
                                     "");
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW) {
        StoreDisk *row = g_new0(StoreDisk, 1);
        row->name = store_column_text(s, 0);
        row->path = store_column_text(s, 1);
        row->read_only = sqlite3_column_int(s, 2);
        row->cache = sqlite3_column_int(s, 3);
        row->implicit = sqlite3_column_int(s, 4);
        row->id = sqlite3_column_int64(s, 5);
        g_ptr_array_add(rows, row);
    }
    return s && code == SQLITE_DONE;
}

static bool load_list(StoreTxn *txn, const char *sql, int64_t id, char ***ret_items, GError **error)
{
    g_autoptr(GPtrArray) items = g_ptr_array_new_with_free_func(g_free);
    sqlite3_stmt *s = store_db_query(txn->db, error, sql, "i", id);
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW)
        g_ptr_array_add(items, store_column_text(s, 0));
    if (s == NULL || code != SQLITE_DONE)
        return false;
    g_ptr_array_add(items, NULL);
    *ret_items = (char **)g_ptr_array_steal(items, NULL);
    return true;
}

static bool load_exports(StoreTxn *txn, GPtrArray *rows, GError **error)
{
    sqlite3_stmt *s = store_db_query(
        txn->db, error,
        "SELECT e.id, e.name, d.name, e.description, e.read_only, e.sharing, e.max_clients,"
        " e.every_bitmap, e.everyone, e.tls_required, e.on_busy, e.max_clients_per_identity,"
        " e.iops, e.iops_burst, e.bandwidth, e.bandwidth_burst"
        " FROM exports e JOIN disks d ON d.id = e.disk ORDER BY e.name",
        "");
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW) {
        StoreExport *row = g_new0(StoreExport, 1);
        g_ptr_array_add(rows, row);
        int64_t id = sqlite3_column_int64(s, 0);
        row->name = store_column_text(s, 1);
        row->disk = store_column_text(s, 2);
        row->description = store_column_text(s, 3);
        row->read_only = sqlite3_column_int(s, 4);
        row->sharing = sqlite3_column_int(s, 5);
        row->max_clients = sqlite3_column_int64(s, 6);
        row->tls_required = sqlite3_column_int(s, 9);
        row->on_busy = sqlite3_column_int(s, 10);
        row->max_clients_per_identity = (uint32_t)sqlite3_column_int64(s, 11);
        row->iops = (uint64_t)sqlite3_column_int64(s, 12);
        row->iops_burst = (uint64_t)sqlite3_column_int64(s, 13);
        row->bandwidth = (uint64_t)sqlite3_column_int64(s, 14);
        row->bandwidth_burst = (uint64_t)sqlite3_column_int64(s, 15);
        if ((!sqlite3_column_int(s, 7) &&
             !load_list(txn, "SELECT name FROM export_bitmaps WHERE export = ?1 ORDER BY position",
                        id, &row->bitmaps, error)) ||
            (!sqlite3_column_int(s, 8) &&
             !load_list(txn, "SELECT entry FROM export_allow WHERE export = ?1 ORDER BY position",
                        id, &row->allow, error)))
            return false;
    }
    return s && code == SQLITE_DONE;
}

static bool load_listeners(StoreTxn *txn, GPtrArray *rows, GError **error)
{
    sqlite3_stmt *s = store_db_query(txn->db, error,
                                     "SELECT name, address, credential, tls_mode, max_clients"
                                     " FROM listeners ORDER BY name",
                                     "");
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW) {
        StoreListener *row = g_new0(StoreListener, 1);
        row->name = store_column_text(s, 0);
        row->address = store_column_text(s, 1);
        row->credential = store_column_text(s, 2);
        row->tls_mode = sqlite3_column_int(s, 3);
        row->max_clients = sqlite3_column_int64(s, 4);
        g_ptr_array_add(rows, row);
    }
    return s && code == SQLITE_DONE;
}

static bool load_credentials(StoreTxn *txn, GPtrArray *rows, GError **error)
{
    sqlite3_stmt *s = store_db_query(txn->db, error,
                                     "SELECT name, kind, dir, keys, priority, verify_client"
                                     " FROM credentials ORDER BY name",
                                     "");
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW) {
        StoreCredential *row = g_new0(StoreCredential, 1);
        row->name = store_column_text(s, 0);
        row->kind = sqlite3_column_int(s, 1);
        row->dir = store_column_text(s, 2);
        row->keys = store_column_text(s, 3);
        row->priority = store_column_text(s, 4);
        row->verify_client = sqlite3_column_int(s, 5);
        g_ptr_array_add(rows, row);
    }
    return s && code == SQLITE_DONE;
}

static bool load_all(StoreTxn *txn, gpointer data, GError **error)
{
    StoreConfig *config = data;
    return load_disks(txn, config->disks, error) && load_exports(txn, config->exports, error) &&
           load_listeners(txn, config->listeners, error) &&
           load_credentials(txn, config->credentials, error);
}

StoreConfig *store_load_config(Store *store, GError **error)
{
    g_autoptr(StoreConfig) config = g_new0(StoreConfig, 1);
    config->disks = g_ptr_array_new_with_free_func((GDestroyNotify)store_disk_free);
    config->exports = g_ptr_array_new_with_free_func((GDestroyNotify)store_export_free);
    config->listeners = g_ptr_array_new_with_free_func((GDestroyNotify)store_listener_free);
    config->credentials = g_ptr_array_new_with_free_func((GDestroyNotify)store_credential_free);
    if (!store_transact(store, load_all, config, error))
        return NULL;
    return g_steal_pointer(&config);
}

void store_config_free(StoreConfig *config)
{
    if (config == NULL)
        return;
    g_ptr_array_unref(config->disks);
    g_ptr_array_unref(config->exports);
    g_ptr_array_unref(config->listeners);
    g_ptr_array_unref(config->credentials);
    g_free(config);
}
