/* The VFS of sick_vfs.h: SQLite's own with our methods in front. */
#include "tests/unit/sick_vfs.h"
#include <glib.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>

_Atomic int sick_writes, sick_syncs;
_Atomic long sick_calls, sick_call = -1;
const char *sick_keep_synced;

typedef struct {
    sqlite3_file base;
    bool log;
} SickFile;

static sqlite3_vfs sick, *sound;

static sqlite3_file *inner(sqlite3_file *file)
{
    return (sqlite3_file *)((SickFile *)file + 1);
}

static int is_sick(_Atomic int *counter)
{
    int count = counter ? atomic_load(counter) : 0;
    if (count > 0)
        atomic_fetch_sub(counter, 1);
    return count != 0 || atomic_fetch_add(&sick_calls, 1) == atomic_load(&sick_call);
}

static int sick_close(sqlite3_file *file)
{
    return inner(file)->pMethods->xClose(inner(file));
}

static int sick_read(sqlite3_file *file, void *data, int length, sqlite3_int64 offset)
{
    if (is_sick(NULL))
        return SQLITE_IOERR_READ;
    return inner(file)->pMethods->xRead(inner(file), data, length, offset);
}

static int sick_write(sqlite3_file *file, const void *data, int length, sqlite3_int64 offset)
{
    if (is_sick(&sick_writes))
        return SQLITE_FULL;
    return inner(file)->pMethods->xWrite(inner(file), data, length, offset);
}

static int sick_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    if (is_sick(NULL))
        return SQLITE_IOERR_TRUNCATE;
    return inner(file)->pMethods->xTruncate(inner(file), size);
}

/* What a power cut leaves of the log. */
static void keep(sqlite3_file *file)
{
    sqlite3_int64 size = 0;
    if (sick_keep_synced == NULL || !((SickFile *)file)->log ||
        inner(file)->pMethods->xFileSize(inner(file), &size) != SQLITE_OK)
        return;
    g_autofree char *data = g_malloc((gsize)size);
    if (inner(file)->pMethods->xRead(inner(file), data, (int)size, 0) == SQLITE_OK)
        g_file_set_contents(sick_keep_synced, data, (gssize)size, NULL);
}

static int sick_sync(sqlite3_file *file, int flags)
{
    keep(file);
    int code = inner(file)->pMethods->xSync(inner(file), flags);
    return is_sick(&sick_syncs) ? SQLITE_IOERR_FSYNC : code;
}

static int sick_size(sqlite3_file *file, sqlite3_int64 *size)
{
    if (is_sick(NULL))
        return SQLITE_IOERR_FSTAT;
    return inner(file)->pMethods->xFileSize(inner(file), size);
}

static int sick_lock(sqlite3_file *file, int level)
{
    if (is_sick(NULL))
        return SQLITE_IOERR_LOCK;
    return inner(file)->pMethods->xLock(inner(file), level);
}

static int sick_unlock(sqlite3_file *file, int level)
{
    return inner(file)->pMethods->xUnlock(inner(file), level);
}

static int sick_check(sqlite3_file *file, int *result)
{
    return inner(file)->pMethods->xCheckReservedLock(inner(file), result);
}

static int sick_control(sqlite3_file *file, int operation, void *argument)
{
    return inner(file)->pMethods->xFileControl(inner(file), operation, argument);
}

static int sick_sector(sqlite3_file *file)
{
    return inner(file)->pMethods->xSectorSize(inner(file));
}

static int sick_device(sqlite3_file *file)
{
    return inner(file)->pMethods->xDeviceCharacteristics(inner(file));
}

static int sick_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                     int *ret_flags)
{
    static const sqlite3_io_methods methods = {
        .iVersion = 1,
        .xClose = sick_close,
        .xRead = sick_read,
        .xWrite = sick_write,
        .xTruncate = sick_truncate,
        .xSync = sick_sync,
        .xFileSize = sick_size,
        .xLock = sick_lock,
        .xUnlock = sick_unlock,
        .xCheckReservedLock = sick_check,
        .xFileControl = sick_control,
        .xSectorSize = sick_sector,
        .xDeviceCharacteristics = sick_device,
    };
    *(SickFile *)file = (SickFile){.log = flags & SQLITE_OPEN_WAL};
    if (is_sick(NULL))
        return SQLITE_CANTOPEN;
    int code = sound->xOpen(sound, name, inner(file), flags, ret_flags);
    if (inner(file)->pMethods)
        file->pMethods = &methods;
    return code;
}

static int sick_delete(sqlite3_vfs *vfs, const char *name, int sync_directory)
{
    return is_sick(NULL) ? SQLITE_IOERR_DELETE : sound->xDelete(sound, name, sync_directory);
}

void sick_vfs_register(void)
{
    sound = sqlite3_vfs_find(NULL);
    sick = *sound;
    sick.zName = "sick";
    sick.szOsFile = (int)sizeof(SickFile) + sound->szOsFile;
    sick.xOpen = sick_open;
    sick.xDelete = sick_delete;
    sqlite3_vfs_register(&sick, 1);
}
