/* SQL behind store_track.h. */
#include "storage/store_track.h"
#include "storage/fault.h"
#include <string.h>

bool store_find_disk(StoreTxn *txn, const char *name, int64_t *ret_id, GError **error)
{
    sqlite3_stmt *s =
        store_db_query(txn->db, error, "SELECT id FROM disks WHERE name = ?1", "t", name);
    int code = s ? store_db_step(txn->db, s, error) : -1;
    if (code < 0)
        return false;
    *ret_id = code == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_reset(s);
    return true;
}

bool store_put_bitmap(StoreTxn *txn, int64_t disk, int64_t id, const char *name, unsigned shift,
                      const BitmapMeta *meta, int64_t *ret_id, GError **error)
{
    if (id != 0)
        return store_db_run(
            txn->db, error,
            "UPDATE bitmaps SET generation = ?2, recording = ?3, missed_writes = ?4,"
            " over_reported = ?5, invalid_reason = ?6 WHERE id = ?1",
            "itiiit", id, meta->generation, (int64_t)meta->recording, (int64_t)meta->missed_writes,
            (int64_t)meta->over_reported, meta->invalid_reason);
    if (!store_db_run(txn->db, error,
                      "INSERT INTO bitmaps (disk, name, generation, granularity, recording,"
                      " missed_writes, durability, over_reported, invalid_reason)"
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                      "ittiiiiit", disk, name, meta->generation, INT64_C(1) << shift,
                      (int64_t)meta->recording, (int64_t)meta->missed_writes,
                      (int64_t)meta->durability, (int64_t)meta->over_reported,
                      meta->invalid_reason))
        return false;
    *ret_id = sqlite3_last_insert_rowid(txn->db->handle);
    return true;
}

bool store_del_bitmap(StoreTxn *txn, int64_t id, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM bitmaps WHERE id = ?1", "i", id);
}

bool store_put_page(StoreTxn *txn, int64_t bitmap, uint64_t page, BitsPageKind kind,
                    const uint64_t words[BITS_WORDS], GError **error)
{
    static const char replace[] = "INSERT OR REPLACE INTO bits (bitmap, page, data)"
                                  " VALUES (?1, ?2, ?3)";
    switch (kind) {
    case BITS_PAGE_EMPTY:
        return store_db_run(txn->db, error, "DELETE FROM bits WHERE bitmap = ?1 AND page = ?2",
                            "ii", bitmap, (int64_t)page);
    case BITS_PAGE_FULL:
        return store_db_run(txn->db, error, replace, "iin", bitmap, (int64_t)page);
    case BITS_PAGE_MIXED:
        break;
    }
    uint64_t little[BITS_WORDS];
    for (unsigned i = 0; i < BITS_WORDS; i++)
        little[i] = GUINT64_TO_LE(words[i]);
    return store_db_run(txn->db, error, replace, "iib", bitmap, (int64_t)page, little,
                        (int)sizeof little);
}

bool store_put_bits(StoreTxn *txn, int64_t bitmap, const Bits *bits, const Bits *stored,
                    GError **error)
{
    if ((bits == NULL || stored == NULL) &&
        !store_db_run(txn->db, error, "DELETE FROM bits WHERE bitmap = ?1", "i", bitmap))
        return false;
    if (bits == NULL)
        return true;
    uint64_t words[BITS_WORDS], old[BITS_WORDS];
    for (uint64_t page = 0; page < bits->pages; page++) {
        BitsPageKind was = BITS_PAGE_EMPTY;
        if (stored && page < stored->pages && atomic_load(&stored->page[page]))
            was = bits_page_get(stored, page, old);
        else if (atomic_load(&bits->page[page]) == NULL)
            continue;
        BitsPageKind is = bits_page_get(bits, page, words);
        if (is == was && (is != BITS_PAGE_MIXED || memcmp(words, old, sizeof words) == 0))
            continue;
        if (!store_put_page(txn, bitmap, page, is, words, error))
            return false;
    }
    return true;
}

static bool load_bits(StoreTxn *txn, Bitmap *bitmap, GError **error)
{
    sqlite3_stmt *s = store_db_query(
        txn->db, error, "SELECT page, data FROM bits WHERE bitmap = ?1", "i", bitmap->id);
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW) {
        uint64_t page = sqlite3_column_int64(s, 0);
        uint64_t words[BITS_WORDS];
        const void *blob = sqlite3_column_blob(s, 1);
        if (page >= bitmap->bits->pages)
            continue; /* the disk has shrunk: disk_open deals with that */
        if (blob == NULL) {
            bits_page_or(bitmap->bits, page, NULL);
            bits_page_or(bitmap->stored, page, NULL);
            continue;
        }
        if (sqlite3_column_bytes(s, 1) != sizeof words) {
            sqlite3_reset(s);
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_CORRUPT,
                        "bitmap %s: a row of bits has the wrong length", bitmap->name);
            return false;
        }
        memcpy(words, blob, sizeof words);
        for (unsigned i = 0; i < BITS_WORDS; i++)
            words[i] = GUINT64_FROM_LE(words[i]);
        bits_page_or(bitmap->bits, page, words);
        bits_page_or(bitmap->stored, page, words);
    }
    return s && code == SQLITE_DONE;
}

/* The row the statement is at, without its bits; NULL when it makes no sense. */
static Bitmap *load_bitmap(sqlite3_stmt *s, uint64_t size, GError **error)
{
    int64_t granularity = sqlite3_column_int64(s, 3);
    g_autofree char *name = store_column_text(s, 1);
    if (granularity < BITMAP_GRANULARITY_MIN || granularity > BITMAP_GRANULARITY_MAX ||
        (granularity & (granularity - 1))) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_CORRUPT,
                    "bitmap %s: %" G_GINT64_FORMAT " is no granularity", name, granularity);
        return NULL;
    }
    Bitmap *bitmap = bitmap_new(name, (unsigned)__builtin_ctzll(granularity), size);
    bitmap->id = sqlite3_column_int64(s, 0);
    bitmap->meta = (BitmapMeta){
        .generation = store_column_text(s, 2),
        .recording = sqlite3_column_int(s, 4),
        .missed_writes = sqlite3_column_int(s, 5),
        .durability = sqlite3_column_int(s, 6),
        .over_reported = sqlite3_column_int64(s, 7),
        .invalid_reason = store_column_text(s, 8),
    };
    return bitmap;
}

bool store_load_bitmaps(StoreTxn *txn, int64_t disk, uint64_t size, GPtrArray *bitmaps,
                        GError **error)
{
    sqlite3_stmt *s = store_db_query(
        txn->db, error,
        "SELECT id, name, generation, granularity, recording, missed_writes, durability,"
        " over_reported, invalid_reason FROM bitmaps WHERE disk = ?1 ORDER BY name",
        "i", disk);
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW) {
        Bitmap *bitmap = load_bitmap(s, size, error);
        if (bitmap == NULL) {
            sqlite3_reset(s);
            return false;
        }
        g_ptr_array_add(bitmaps, bitmap);
    }
    if (s == NULL || code != SQLITE_DONE)
        return false;
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->meta.invalid_reason)
            continue;
        uint64_t blocks = bitmap_blocks(size, bitmap->shift);
        bitmap_replace_bits(bitmap, bits_new(blocks));
        bitmap->stored = bits_new_certain(blocks);
        if (bitmap->bits == NULL || bitmap->stored == NULL) {
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT,
                        "no memory for the bits of bitmap %s", bitmap->name);
            return false;
        }
        if (!load_bits(txn, bitmap, error))
            return false;
    }
    return true;
}

bool store_put_intent(StoreTxn *txn, int64_t disk, uint64_t offset, uint64_t length, GError **error)
{
    return store_db_run(txn->db, error,
                        "INSERT OR REPLACE INTO intents (disk, offset, length) VALUES (?1, ?2, ?3)",
                        "iii", disk, (int64_t)offset, (int64_t)length);
}

bool store_del_intent(StoreTxn *txn, int64_t disk, uint64_t offset, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM intents WHERE disk = ?1 AND offset = ?2", "ii",
                        disk, (int64_t)offset);
}

bool store_del_intents(StoreTxn *txn, int64_t disk, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM intents WHERE disk = ?1", "i", disk);
}

bool store_del_intents_from(StoreTxn *txn, int64_t disk, uint64_t offset, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM intents WHERE disk = ?1 AND offset >= ?2",
                        "ii", disk, (int64_t)offset);
}

bool store_load_intents(StoreTxn *txn, int64_t disk,
                        void (*function)(uint64_t offset, uint64_t length, gpointer data),
                        gpointer data, GError **error)
{
    sqlite3_stmt *s = store_db_query(txn->db, error,
                                     "SELECT offset, length FROM intents WHERE disk = ?1"
                                     " ORDER BY offset",
                                     "i", disk);
    int code = SQLITE_ERROR;
    while (s && (code = store_db_step(txn->db, s, error)) == SQLITE_ROW)
        function(sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1), data);
    return s && code == SQLITE_DONE;
}

bool store_load_watch(StoreTxn *txn, int64_t disk, WatchRow *ret_row, GError **error)
{
    sqlite3_stmt *s = store_db_query(
        txn->db, error,
        "SELECT clean, sequence, boot, size, filesystem, inode, birth, mtime, ctime, diskseq,"
        " sectors_written FROM watch WHERE disk = ?1",
        "i", disk);
    int code = s ? store_db_step(txn->db, s, error) : -1;
    if (code < 0)
        return false;
    *ret_row = (WatchRow){.present = code == SQLITE_ROW};
    if (!ret_row->present)
        return true;
    ret_row->clean = sqlite3_column_int(s, 0);
    ret_row->sequence = sqlite3_column_int64(s, 1);
    g_strlcpy(ret_row->boot, (const char *)sqlite3_column_text(s, 2), sizeof ret_row->boot);
    WatchIdentity *identity = &ret_row->identity;
    identity->size = sqlite3_column_int64(s, 3);
    g_strlcpy(identity->filesystem, (const char *)sqlite3_column_text(s, 4),
              sizeof identity->filesystem);
    identity->inode = sqlite3_column_int64(s, 5);
    identity->birth = sqlite3_column_int64(s, 6);
    identity->mtime = sqlite3_column_int64(s, 7);
    identity->ctime = sqlite3_column_int64(s, 8);
    identity->diskseq = sqlite3_column_int64(s, 9);
    identity->sectors_written = sqlite3_column_int64(s, 10);
    sqlite3_reset(s);
    return true;
}

bool store_put_watch(StoreTxn *txn, int64_t disk, const WatchRow *row, GError **error)
{
    const WatchIdentity *identity = &row->identity;
    return store_db_run(txn->db, error,
                        "INSERT OR REPLACE INTO watch (disk, clean, sequence, boot, size,"
                        " filesystem, inode, birth, mtime, ctime, diskseq, sectors_written)"
                        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                        "iiititiiiiii", disk, (int64_t)row->clean, row->sequence, row->boot,
                        (int64_t)identity->size, identity->filesystem, identity->inode,
                        identity->birth, identity->mtime, identity->ctime,
                        (int64_t)identity->diskseq, (int64_t)identity->sectors_written);
}

bool store_del_watch(StoreTxn *txn, int64_t disk, GError **error)
{
    return store_db_run(txn->db, error, "DELETE FROM watch WHERE disk = ?1", "i", disk);
}

bool store_put_sequence(StoreTxn *txn, int64_t disk, int64_t sequence, GError **error)
{
    if (!store_db_run(txn->db, error,
                      fault("clean-flag-stays")
                          ? "UPDATE watch SET sequence = ?2, boot = ?3 WHERE disk = ?1"
                          : "UPDATE watch SET clean = 0, sequence = ?2, boot = ?3"
                            " WHERE disk = ?1",
                      "iit", disk, sequence, watch_boot_id()))
        return false;
    if (sqlite3_changes(txn->db->handle) > 0)
        return true;
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND, "the disk has been removed");
    return false;
}

bool store_put_size(StoreTxn *txn, int64_t disk, uint64_t size, GError **error)
{
    return store_db_run(txn->db, error, "UPDATE watch SET size = ?2 WHERE disk = ?1", "ii", disk,
                        (int64_t)size);
}

bool store_put_missed_writes(StoreTxn *txn, int64_t disk, GError **error)
{
    return store_db_run(txn->db, error,
                        "UPDATE bitmaps SET missed_writes = 1"
                        " WHERE disk = ?1 AND recording = 0 AND missed_writes = 0",
                        "i", disk);
}
