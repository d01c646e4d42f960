/* Whole databases: opening, rebuilding after a COMMIT that failed, copies of a live one.
 *
 * A COMMIT that failed may be replayed from the log after a crash, or not. So the database is
 * written anew, as the connection sees it without that transaction, and takes the old one's place
 * in steps of which each may be the last:
 *   state.db-new      is written and synced;
 *   state.db-rebuilt  is what it is renamed to: from here on it counts, at the next start too;
 *   state.db-wal      the old log, is deleted;
 *   state.db          is what it is renamed to in the end. */
#include "storage/store_files.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool sync_path(const char *path, int flags, GError **error)
{
    int fd = open(path, flags | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok)
        storage_error_set_errno(error, errno, "cannot sync %s", path);
    if (fd >= 0)
        close(fd);
    return ok;
}

bool store_files_sync_directory(const char *file, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(file);
    return sync_path(directory, O_RDONLY | O_DIRECTORY, error);
}

static bool rename_path(const char *from, const char *to, GError **error)
{
    if (rename(from, to) == 0)
        return store_files_sync_directory(to, error);
    storage_error_set_errno(error, errno, "cannot rename %s", from);
    return false;
}

static bool remove_path(const char *path, GError **error)
{
    if (unlink(path) == 0 || errno == ENOENT)
        return true;
    storage_error_set_errno(error, errno, "cannot delete %s", path);
    return false;
}

/* The connection's view of the database, in one synced file. */
static bool copy_to(StoreDb *db, const char *path, GError **error)
{
    return store_db_run(db, error, "VACUUM INTO ?1", "t", path) && sync_path(path, O_RDWR, error);
}

bool store_files_settle(const char *path, GError **error)
{
    g_autofree char *new = g_strconcat(path, "-new", NULL);
    g_autofree char *rebuilt = g_strconcat(path, "-rebuilt", NULL);
    g_autofree char *log = g_strconcat(path, "-wal", NULL);
    if (!remove_path(new, error))
        return false;
    if (access(rebuilt, F_OK) < 0)
        return true;
    return remove_path(log, error) && store_files_sync_directory(path, error) &&
           rename_path(rebuilt, path, error);
}

bool store_files_rebuild(Store *store, GError **error)
{
    g_autofree char *path = g_build_filename(store->dir, "state.db", NULL);
    g_autofree char *new = g_strconcat(path, "-new", NULL);
    g_autofree char *rebuilt = g_strconcat(path, "-rebuilt", NULL);
    if (store->db.handle) {
        if (!remove_path(new, error) || !copy_to(&store->db, new, error) ||
            !rename_path(new, rebuilt, error))
            return false;
        store_db_abandon(&store->db);
    }
    /* Should something fail from here on, the next attempt begins here. */
    return store_files_settle(path, error) && store_db_open(&store->db, path, error);
}

/* --- copies --- */

typedef struct {
    const char *path;
    GError **error;
    bool ok;
} Backup;

static bool mark_as_copy(const char *path, GError **error)
{
    sqlite3 *handle = NULL;
    bool ok = sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
              sqlite3_exec(handle, "INSERT OR REPLACE INTO meta VALUES ('copy', 1)", NULL, NULL,
                           NULL) == SQLITE_OK;
    if (!ok)
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_IO, "cannot finish the copy %s: %s", path,
                    handle ? sqlite3_errmsg(handle) : "out of memory");
    sqlite3_close(handle);
    return ok && sync_path(path, O_RDWR, error) && store_files_sync_directory(path, error);
}

static void backup(Store *store, gpointer data)
{
    Backup *job = data;
    job->ok = copy_to(&store->db, job->path, job->error);
}

bool store_backup(Store *store, const char *file, GError **error)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        if (errno == EEXIST)
            g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_EXISTS, "%s exists already", file);
        else
            storage_error_set_errno(error, errno, "cannot make %s", file);
        return false;
    }
    close(fd); /* empty, it may be copied into, and has our mode */
    Backup job = {file, error, false};
    store_call(store, backup, &job);
    if (job.ok && mark_as_copy(file, error))
        return true;
    unlink(file);
    return false;
}

/* --- opening --- */

static bool set_aside(const char *path, char **ret_kept, GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *stamp = g_date_time_format(now, "%Y%m%dT%H%M%S");
    g_autofree char *kept = g_strdup_printf("%s-damaged-%s", path, stamp);
    for (unsigned i = 2; access(kept, F_OK) == 0; i++) {
        g_free(kept);
        kept = g_strdup_printf("%s-damaged-%s-%u", path, stamp, i);
    }
    g_autofree char *log = g_strconcat(path, "-wal", NULL);
    g_autofree char *kept_log = g_strconcat(kept, "-wal", NULL);
    if (rename(log, kept_log) < 0 && errno != ENOENT) {
        storage_error_set_errno(error, errno, "cannot keep %s aside", log);
        return false;
    }
    if (!rename_path(path, kept, error))
        return false;
    *ret_kept = g_steal_pointer(&kept);
    return true;
}

/* What fails once need not be damage, on which much would be given up: a read may have failed. */
static bool open_database(StoreDb *db, const char *path, GError **error)
{
    return store_db_open(db, path, NULL) || store_db_open(db, path, error);
}

bool store_files_open(Store *store, GError **error)
{
    g_autofree char *path = g_build_filename(store->dir, "state.db", NULL);
    g_autofree char *kept = NULL;
    g_autoptr(GError) damage = NULL;
    if (!store_files_settle(path, error))
        return false;
    if (open_database(&store->db, path, &damage)) {
        /* This file is made after the database. */
        g_autofree char *later = g_build_filename(store->dir, "invalid", NULL);
        if (store->db.empty && access(later, F_OK) == 0)
            store->notice = g_strdup_printf("the state database %s or its log has been lost: it "
                                            "was empty, though the directory has been in use",
                                            path);
        return store_files_sync_directory(path, error);
    }
    if (!g_error_matches(damage, STORAGE_ERROR, STORAGE_ERROR_CORRUPT)) {
        g_propagate_error(error, g_steal_pointer(&damage));
        return false;
    }
    if (!set_aside(path, &kept, error) || !store_db_open(&store->db, path, error) ||
        !store_salvage(&store->db, kept, error))
        return false;
    store->notice = g_strdup_printf("the state database was damaged (%s) and is kept as %s; what "
                                    "could be read of it was taken over, its bitmaps are invalid",
                                    damage->message, kept);
    return store_files_sync_directory(path, error);
}
