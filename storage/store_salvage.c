/* What can be read of a damaged database. Rows are read from the front until one cannot be, then
 * from the back; what lies between is lost. No bits are taken over: a missing row of bits would say
 * "clean". */
#include "storage/store_files.h"
#include <string.h>

/* Each in an order in which it can be read from both ends. */
typedef struct {
    const char *table, *order;
} Table;

static const Table tables[] = {
    {"disks", "id"},
    {"exports", "id"},
    {"export_bitmaps", "export"},
    {"export_allow", "export"},
    {"listeners", "name"},
    {"credentials", "name"},
    {"bitmaps", "id"},
};

/* "a, b, c": the columns that the table has on both sides, since the damaged one may be of an older
 * schema; NULL when it cannot be told. */
static char *common_columns(sqlite3 *source, sqlite3 *target, const char *table)
{
    sqlite3_stmt *from = NULL, *into = NULL;
    static const char sql[] = "SELECT name FROM pragma_table_info(?1)";
    g_autoptr(GHashTable) known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GString *columns = g_string_new(NULL);
    if (sqlite3_prepare_v2(target, sql, -1, &into, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(source, sql, -1, &from, NULL) == SQLITE_OK) {
        sqlite3_bind_text(into, 1, table, -1, SQLITE_STATIC);
        sqlite3_bind_text(from, 1, table, -1, SQLITE_STATIC);
        while (sqlite3_step(into) == SQLITE_ROW)
            g_hash_table_add(known, store_column_text(into, 0));
        while (sqlite3_step(from) == SQLITE_ROW) {
            g_autofree char *name = store_column_text(from, 0);
            if (name && g_hash_table_contains(known, name))
                g_string_append_printf(columns, "%s%s", columns->len ? ", " : "", name);
        }
    }
    sqlite3_finalize(from);
    sqlite3_finalize(into);
    return g_string_free(columns, columns->len == 0);
}

static void copy_rows(StoreDb *db, sqlite3 *source, const Table *table, const char *columns,
                      const char *direction)
{
    g_autofree char *select = g_strdup_printf("SELECT %s FROM %s ORDER BY %s %s", columns,
                                              table->table, table->order, direction);
    sqlite3_stmt *from = NULL, *into = NULL;
    if (sqlite3_prepare_v2(source, select, -1, &from, NULL) != SQLITE_OK) {
        sqlite3_finalize(from);
        return;
    }
    g_autoptr(GString) insert = g_string_new(NULL);
    g_string_printf(insert, "INSERT OR IGNORE INTO %s (%s) VALUES (?", table->table, columns);
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
            g_autofree char *columns = common_columns(source, db->handle, tables[i].table);
            if (columns == NULL)
                continue;
            copy_rows(db, source, &tables[i], columns, "ASC");
            copy_rows(db, source, &tables[i], columns, "DESC");
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
                      /* A list that begins or goes on without an entry may have lost a refusal, so
                       * it admits nobody. */
                      "DELETE FROM export_allow WHERE export IN (SELECT export FROM export_allow"
                      " GROUP BY export HAVING min(position) <> 0"
                      " OR max(position) <> count(*) - 1);"
                      "DELETE FROM bitmaps WHERE disk NOT IN (SELECT id FROM disks);"
                      "UPDATE bitmaps SET invalid_reason = 'the state database was damaged'"
                      " WHERE invalid_reason IS NULL;"
                      "COMMIT; PRAGMA foreign_keys=ON"))
        return true;
    store_db_exec(db, NULL, "ROLLBACK");
    return false;
}
