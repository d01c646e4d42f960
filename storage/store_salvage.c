/* What can be read of a damaged database. Rows are read from the front until one cannot be, then
 * from the back; what lies between is lost. No bits are taken over: a missing row of bits would say
 * "clean". */
#include "storage/store_files.h"
#include <string.h>

typedef struct {
    const char *table, *columns, *order;
} Table;

static const Table tables[] = {
    {"disks", "id, name, path, read_only, cache, implicit", "id"},
    {"exports",
     "id, name, disk, description, read_only, sharing, max_clients, every_bitmap, everyone,"
     " tls_required",
     "id"},
    {"export_bitmaps", "export, position, name", "export"},
    {"export_allow", "export, position, entry", "export"},
    {"listeners", "name, address, credential, tls_mode, max_clients", "name"},
    {"bitmaps",
     "id, disk, name, generation, granularity, recording, missed_writes, durability,"
     " over_reported, invalid_reason",
     "id"},
};

static void copy_rows(StoreDb *db, sqlite3 *source, const Table *table, const char *direction)
{
    g_autofree char *select = g_strdup_printf("SELECT %s FROM %s ORDER BY %s %s", table->columns,
                                              table->table, table->order, direction);
    sqlite3_stmt *from = NULL, *into = NULL;
    if (sqlite3_prepare_v2(source, select, -1, &from, NULL) != SQLITE_OK) {
        sqlite3_finalize(from);
        return;
    }
    g_autoptr(GString) insert = g_string_new(NULL);
    g_string_printf(insert, "INSERT OR IGNORE INTO %s (%s) VALUES (?", table->table,
                    table->columns);
    for (int i = 1; i < sqlite3_column_count(from); i++)
        g_string_append(insert, ", ?");
    g_string_append_c(insert, ')');
    if (sqlite3_prepare_v2(db->handle, insert->str, -1, &into, NULL) == SQLITE_OK) {
        while (sqlite3_step(from) == SQLITE_ROW) {
            for (int i = 0; i < sqlite3_column_count(from); i++)
                sqlite3_bind_value(into, i + 1, sqlite3_column_value(from, i));
            sqlite3_step(into); /* a row that makes no sense is refused: that one is lost, too */
            sqlite3_reset(into);
        }
    }
    sqlite3_finalize(from);
    sqlite3_finalize(into);
}

static void copy_tables(StoreDb *db, const char *path)
{
    sqlite3 *source = NULL;
    if (sqlite3_open_v2(path, &source, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
        sqlite3_exec(source, "PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL) == SQLITE_OK) {
        for (size_t i = 0; i < G_N_ELEMENTS(tables); i++) {
            copy_rows(db, source, &tables[i], "ASC");
            copy_rows(db, source, &tables[i], "DESC");
        }
    }
    sqlite3_close(source);
}

bool store_salvage(StoreDb *db, const char *path, GError **error)
{
    if (!store_db_exec(db, error, "PRAGMA foreign_keys=OFF; BEGIN IMMEDIATE"))
        return false;
    copy_tables(db, path);
    /* Whose disk or export was lost goes as well. */
    if (store_db_exec(db, error,
                      "DELETE FROM exports WHERE disk NOT IN (SELECT id FROM disks);"
                      "DELETE FROM export_bitmaps WHERE export NOT IN (SELECT id FROM exports);"
                      "DELETE FROM export_allow WHERE export NOT IN (SELECT id FROM exports);"
                      "DELETE FROM bitmaps WHERE disk NOT IN (SELECT id FROM disks);"
                      "UPDATE bitmaps SET invalid_reason = 'the state database was damaged'"
                      " WHERE invalid_reason IS NULL;"
                      "COMMIT; PRAGMA foreign_keys=ON"))
        return true;
    store_db_exec(db, NULL, "ROLLBACK");
    return false;
}
