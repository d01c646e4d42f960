/* The SQLite connection: how it is opened, its cached statements, migrations, checkpoints.
 *
 * Checkpoints of the log are left to the store thread's quiet moments: SQLite's own would run
 * inside a commit that writers wait for. */
#include "storage/fault.h"
#include "storage/store_migrations.h"
#include "storage/store_private.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define APPLICATION_ID 0x6e626464 /* "nbdd" */

void store_db_set_error(StoreDb *db, GError **error, const char *what)
{
    int code = db->handle ? sqlite3_extended_errcode(db->handle) : SQLITE_NOMEM;
    const char *message = db->handle ? sqlite3_errmsg(db->handle) : "out of memory";
    StorageErrorCode kind = STORAGE_ERROR_IO;

    switch (code & 0xff) {
    case SQLITE_CONSTRAINT:
        kind = STORAGE_ERROR_STATE;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        kind = STORAGE_ERROR_CORRUPT;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        kind = STORAGE_ERROR_LOCKED;
        break;
    }
    int system = db->handle ? sqlite3_system_errno(db->handle) : 0;
    if ((code & 0xff) == SQLITE_IOERR && system != 0)
        g_set_error(error, STORAGE_ERROR, kind, "%s: state database %s: %s: %s", what, db->path,
                    message, g_strerror(system));
    else
        g_set_error(error, STORAGE_ERROR, kind, "%s: state database %s: %s", what, db->path,
                    message);
}

static void finalize(gpointer statement)
{
    sqlite3_finalize(statement);
}

static bool bind_arguments(sqlite3_stmt *statement, const char *types, va_list arguments)
{
    int code = SQLITE_OK;
    for (int i = 1; code == SQLITE_OK && *types; i++, types++) {
        switch (*types) {
        case 't': {
            const char *text = va_arg(arguments, const char *);
            code = text ? sqlite3_bind_text(statement, i, text, -1, SQLITE_TRANSIENT)
                        : sqlite3_bind_null(statement, i);
            break;
        }
        case 'i':
            code = sqlite3_bind_int64(statement, i, va_arg(arguments, int64_t));
            break;
        case 'b': {
            const void *blob = va_arg(arguments, const void *);
            int length = va_arg(arguments, int);
            code = sqlite3_bind_blob(statement, i, blob, length, SQLITE_TRANSIENT);
            break;
        }
        case 'n':
            code = sqlite3_bind_null(statement, i);
            break;
        default:
            g_assert_not_reached();
        }
    }
    return code == SQLITE_OK;
}

static sqlite3_stmt *query_va(StoreDb *db, GError **error, const char *sql, const char *types,
                              va_list arguments)
{
    sqlite3_stmt *statement = g_hash_table_lookup(db->statements, sql);
    if (statement == NULL) {
        if (sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) !=
            SQLITE_OK) {
            store_db_set_error(db, error, "preparing a statement");
            return NULL;
        }
        g_hash_table_insert(db->statements, (gpointer)sql, statement);
    }
    sqlite3_reset(statement);
    if (!bind_arguments(statement, types, arguments)) {
        store_db_set_error(db, error, "binding a value");
        return NULL;
    }
    return statement;
}

sqlite3_stmt *store_db_query(StoreDb *db, GError **error, const char *sql, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    sqlite3_stmt *statement = query_va(db, error, sql, types, arguments);
    va_end(arguments);
    return statement;
}

int store_db_step(StoreDb *db, sqlite3_stmt *statement, GError **error)
{
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        return code;
    if (code == SQLITE_DONE) {
        sqlite3_reset(statement);
        return code;
    }
    store_db_set_error(db, error, "running a statement");
    sqlite3_reset(statement);
    return -1;
}

bool store_db_run(StoreDb *db, GError **error, const char *sql, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    sqlite3_stmt *statement = query_va(db, error, sql, types, arguments);
    va_end(arguments);
    if (statement == NULL)
        return false;
    int code = store_db_step(db, statement, error);
    if (code == SQLITE_ROW)
        sqlite3_reset(statement);
    return code >= 0;
}

bool store_db_exec(StoreDb *db, GError **error, const char *sql)
{
    if (sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK)
        return true;
    store_db_set_error(db, error, "running a statement");
    return false;
}

char *store_column_text(sqlite3_stmt *statement, int column)
{
    return g_strdup((const char *)sqlite3_column_text(statement, column));
}

static bool read_number(StoreDb *db, const char *sql, int64_t *ret_number, GError **error)
{
    sqlite3_stmt *statement = store_db_query(db, error, sql, "");
    if (statement == NULL || store_db_step(db, statement, error) != SQLITE_ROW)
        return false;
    *ret_number = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return true;
}

static bool migrate(StoreDb *db, GError **error)
{
    int64_t version, application;
    if (!read_number(db, "PRAGMA user_version", &version, error) ||
        !read_number(db, "PRAGMA application_id", &application, error))
        return false;
    if (version > store_migration_count || (version > 0 && application != APPLICATION_ID)) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_STATE,
                    "%s was made by a newer nbdd or by another program (schema %d, this nbdd knows "
                    "%d)",
                    db->path, (int)version, store_migration_count);
        return false;
    }
    db->empty = version == 0;
    for (; version < store_migration_count; version++) {
        g_autofree char *mark = g_strdup_printf("PRAGMA user_version=%d; PRAGMA application_id=%d",
                                                (int)version + 1, APPLICATION_ID);
        if (!store_db_exec(db, error, "BEGIN IMMEDIATE"))
            return false;
        if (!store_db_exec(db, error, store_migrations[version]) ||
            !store_db_exec(db, error, mark) || !store_db_exec(db, error, "COMMIT")) {
            store_db_exec(db, NULL, "ROLLBACK");
            return false;
        }
    }
    return true;
}

static int count_wal_frames(void *data, sqlite3 *handle, const char *name, int frames)
{
    StoreDb *db = data;
    db->wal_frames = frames;
    return SQLITE_OK;
}

bool store_db_check(StoreDb *db, GError **error)
{
    sqlite3_stmt *statement = store_db_query(db, error, "PRAGMA quick_check(1)", "");
    if (statement == NULL || store_db_step(db, statement, error) != SQLITE_ROW)
        return false;
    g_autofree char *verdict = store_column_text(statement, 0);
    sqlite3_reset(statement);
    if (g_strcmp0(verdict, "ok") == 0)
        return true;
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_CORRUPT, "%s: %s", db->path, verdict);
    return false;
}

/* SQLite would create it with the umask's mode. */
static bool create_file(const char *path, GError **error)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        storage_error_set_errno(error, errno, "cannot open the state database %s", path);
        return false;
    }
    close(fd);
    return true;
}

bool store_db_open(StoreDb *db, const char *path, GError **error)
{
    *db = (StoreDb){.path = g_strdup(path)};
    db->statements = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, finalize);
    if (!create_file(path, error))
        goto failed;
    if (sqlite3_open_v2(path, &db->handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                        NULL) != SQLITE_OK) {
        store_db_set_error(db, error, "opening");
        goto failed;
    }
    sqlite3_extended_result_codes(db->handle, 1);
    /* EXCLUSIVE before WAL: the log's index then lives in our memory, and nobody else can open the
     * database while we have it. */
    if (!store_db_exec(db, error,
                       "PRAGMA locking_mode=EXCLUSIVE;"
                       "PRAGMA journal_mode=WAL;"
                       "PRAGMA synchronous=FULL;"
                       "PRAGMA wal_autocheckpoint=0;"
                       "PRAGMA foreign_keys=ON;"
                       "PRAGMA trusted_schema=OFF;"
                       "PRAGMA temp_store=MEMORY;") ||
        (fault("synchronous-normal") && !store_db_exec(db, error, "PRAGMA synchronous=NORMAL")) ||
        !store_db_check(db, error) || !migrate(db, error))
        goto failed;
    sqlite3_wal_hook(db->handle, count_wal_frames, db);
    return true;

failed:
    store_db_close(db);
    return false;
}

void store_db_close(StoreDb *db)
{
    g_clear_pointer(&db->statements, g_hash_table_unref);
    if (db->handle)
        sqlite3_close(db->handle);
    db->handle = NULL;
    g_clear_pointer(&db->path, g_free);
}

void store_db_abandon(StoreDb *db)
{
    if (db->handle)
        sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    store_db_close(db);
}

bool store_db_checkpoint(StoreDb *db, GError **error)
{
    if (sqlite3_wal_checkpoint_v2(db->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) !=
        SQLITE_OK) {
        store_db_set_error(db, error, "copying the log back");
        return false;
    }
    db->wal_frames = 0;
    return true;
}
