#include "daemon/core/disk_open.h"
#include "daemon/core/blocking.h"

/* Everything the thread needs and finds, since the caller may have gone when it is done. */
typedef struct {
    Store *store;
    int64_t row;
    char *name, *path;
    bool read_only, new;
    CacheMode cache;
    BackendIdentity identity;
    Disk *disk;
    GError *error;
} Opening;

static void opening_free(gpointer data)
{
    Opening *opening = data;
    if (opening->disk)
        disk_unref(opening->disk);
    g_clear_error(&opening->error);
    g_free(opening->name);
    g_free(opening->path);
    g_free(opening);
}

static void identify(gpointer data)
{
    Opening *opening = data;
    backend_identify(opening->path, &opening->identity, &opening->error);
}

static void open_disk(gpointer data)
{
    Opening *opening = data;
    g_autoptr(Disk) disk =
        opening->new ? disk_open_new(opening->store, opening->name, opening->path,
                                     opening->read_only, opening->cache, &opening->error)
                     : disk_open(opening->store, opening->row, opening->name, opening->path,
                                 opening->read_only, opening->cache, &opening->error);
    if (!disk)
        return;
    if (!backend_identity_equal(&disk_backend(disk)->identity, &opening->identity)) {
        g_set_error(&opening->error, STORAGE_ERROR, STORAGE_ERROR_STATE,
                    "%s was replaced by another file while it was being opened", opening->path);
        return;
    }
    opening->disk = g_steal_pointer(&disk);
}

/* True: done, and *opening is the caller's; it may hold an error. */
static bool run(void (*function)(gpointer), Opening *opening, gint64 deadline, GError **error)
{
    if (deadline == DISK_OPEN_PATIENT) {
        function(opening);
        return true;
    }
    bool begun;
    g_autofree char *path = g_strdup(opening->path);
    if (run_until(function, opening, opening_free, deadline, &begun))
        return true;
    if (begun)
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_TIMEOUT,
                    "%s does not answer (its file system or device hangs)", path);
    else
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LIMIT,
                    "%s: too many files are being opened that do not answer", path);
    return false;
}

bool disk_identify(const char *path, gint64 deadline, BackendIdentity *ret_identity, GError **error)
{
    Opening *opening = g_new0(Opening, 1);
    opening->path = g_strdup(path);
    if (!run(identify, opening, deadline, error))
        return false;
    bool good = !opening->error;
    if (good)
        *ret_identity = opening->identity;
    else
        g_propagate_error(error, g_steal_pointer(&opening->error));
    opening_free(opening);
    return good;
}

char *disk_own_state_problem(const char *state_dir, const char *path,
                             const BackendIdentity *identity)
{
    g_autoptr(GDir) files = state_dir ? g_dir_open(state_dir, 0, NULL) : NULL;
    const char *name;
    while (files && (name = g_dir_read_name(files))) {
        g_autofree char *own = g_build_filename(state_dir, name, NULL);
        BackendIdentity other;
        if (backend_identify(own, &other, NULL) && backend_identity_equal(&other, identity))
            return g_strdup_printf("%s belongs to the state of this daemon", path);
    }
    return NULL;
}

Disk *disk_open_until(Store *store, const DiskEntry *entry, const BackendIdentity *identity,
                      bool new, gint64 deadline, GError **error)
{
    Opening *opening = g_new0(Opening, 1);
    opening->store = store;
    opening->row = entry->row;
    opening->name = g_strdup(entry->name);
    opening->path = g_strdup(entry->path);
    opening->read_only = entry->read_only;
    opening->cache = entry->cache;
    opening->new = new;
    opening->identity = *identity;
    if (!run(open_disk, opening, deadline, error))
        return NULL;
    Disk *disk = g_steal_pointer(&opening->disk);
    if (!disk)
        g_propagate_error(error, g_steal_pointer(&opening->error));
    opening_free(opening);
    return disk;
}
