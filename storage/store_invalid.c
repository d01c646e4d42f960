/* The preallocated file of store_invalid.h. */
#include "storage/store_invalid.h"
#include "storage/fault.h"
#include "storage/store_files.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR  512
#define RECORDS 256
#define MAGIC   "nbddinv1"
/* In place of a generation: the file was full, so every bitmap of every disk. */
#define ALL "*"

typedef struct {
    char magic[8];
    char generation[48];
    char reason[SECTOR - 8 - 48 - 4];
    uint32_t checksum; /* of what is before it */
} Record;

_Static_assert(sizeof(Record) == SECTOR, "a record is a sector: it is written whole or not");

struct StoreInvalid {
    int fd;
    char *path;
    pthread_mutex_t mutex;
    Record records[RECORDS]; /* [0] is kept for ALL */
    GHashTable *crowd;       /* generations that ALL was written for */
};

static uint32_t checksum(const Record *record)
{
    const unsigned char *byte = (const unsigned char *)record;
    uint32_t sum = 2166136261u;
    for (size_t i = 0; i < offsetof(Record, checksum); i++)
        sum = (sum ^ byte[i]) * 16777619u;
    return sum;
}

static bool in_use(const Record *record)
{
    return memcmp(record->magic, MAGIC, sizeof record->magic) == 0 &&
           record->checksum == checksum(record);
}

static bool write_record(StoreInvalid *invalid, unsigned index, const Record *record)
{
    if (pwrite(invalid->fd, record, SECTOR, (off_t)index * SECTOR) != SECTOR)
        return false;
    invalid->records[index] = *record;
    return true;
}

/* Real zeroes, not a promise of room: those would have to be converted, which may need room. */
static bool fill(StoreInvalid *invalid)
{
    memset(invalid->records, 0, sizeof invalid->records);
    return pwrite(invalid->fd, invalid->records, sizeof invalid->records, 0) ==
               sizeof invalid->records &&
           fsync(invalid->fd) == 0;
}

StoreInvalid *store_invalid_open(const char *dir, GError **error)
{
    StoreInvalid *invalid = g_new0(StoreInvalid, 1);
    struct stat st;
    pthread_mutex_init(&invalid->mutex, NULL);
    invalid->crowd = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    invalid->path = g_build_filename(dir, "invalid", NULL);
    invalid->fd = open(invalid->path, O_RDWR | O_CREAT | O_DSYNC | O_CLOEXEC, 0600);
    if (invalid->fd < 0 || fstat(invalid->fd, &st) < 0 ||
        (st.st_size < (off_t)sizeof invalid->records
             ? !fill(invalid)
             : pread(invalid->fd, invalid->records, sizeof invalid->records, 0) !=
                   sizeof invalid->records)) {
        storage_error_set_errno(error, errno, "cannot prepare %s", invalid->path);
        store_invalid_close(invalid);
        return NULL;
    }
    /* Each time: who made it may have died before this. */
    if (!store_files_sync_directory(invalid->path, error)) {
        store_invalid_close(invalid);
        return NULL;
    }
    return invalid;
}

void store_invalid_close(StoreInvalid *invalid)
{
    if (invalid == NULL)
        return;
    if (invalid->fd >= 0)
        close(invalid->fd);
    pthread_mutex_destroy(&invalid->mutex);
    g_hash_table_unref(invalid->crowd);
    g_free(invalid->path);
    g_free(invalid);
}

static unsigned find(const StoreInvalid *invalid, const char *generation)
{
    unsigned index = 0;
    for (unsigned i = 1; i < RECORDS; i++) {
        if (!in_use(&invalid->records[i]))
            index = index ? index : i;
        else if (strncmp(invalid->records[i].generation, generation,
                         sizeof invalid->records[i].generation) == 0)
            return i;
    }
    return index;
}

bool store_invalid_put(StoreInvalid *invalid, const char *generation, const char *reason,
                       GError **error)
{
    Record record = {.magic = MAGIC};
    pthread_mutex_lock(&invalid->mutex);
    unsigned index = find(invalid, generation);
    g_strlcpy(record.generation, index ? generation : ALL, sizeof record.generation);
    g_strlcpy(record.reason, reason, sizeof record.reason);
    record.checksum = checksum(&record);
    bool ok = write_record(invalid, index, &record);
    int errnum = errno;
    if (ok && index == 0)
        g_hash_table_add(invalid->crowd, g_strdup(generation));
    pthread_mutex_unlock(&invalid->mutex);
    if (!ok)
        storage_error_set_errno(error, errnum, "cannot write to %s", invalid->path);
    return ok;
}

void store_invalid_forget(StoreInvalid *invalid, const char *generation)
{
    static const Record empty;
    pthread_mutex_lock(&invalid->mutex);
    for (unsigned i = 1; i < RECORDS; i++) {
        if (in_use(&invalid->records[i]) && strcmp(invalid->records[i].generation, generation) == 0)
            write_record(invalid, i, &empty); /* left behind, it would only say it once more */
    }
    /* This one would say it of bitmaps that have been good for long. */
    g_hash_table_remove(invalid->crowd, generation);
    if (g_hash_table_size(invalid->crowd) == 0 && in_use(&invalid->records[0]))
        write_record(invalid, 0, &empty);
    pthread_mutex_unlock(&invalid->mutex);
}

static bool apply(StoreTxn *txn, gpointer data, GError **error)
{
    StoreInvalid *invalid = data;
    for (unsigned i = 0; i < RECORDS; i++) {
        const Record *record = &invalid->records[i];
        if (!in_use(record))
            continue;
        if (!store_db_run(txn->db, error,
                          "UPDATE bitmaps SET invalid_reason = ?2"
                          " WHERE (generation = ?1 OR ?1 = '" ALL "') AND invalid_reason IS NULL",
                          "tt", record->generation, record->reason) ||
            !store_db_run(txn->db, error,
                          "DELETE FROM bits WHERE bitmap IN"
                          " (SELECT id FROM bitmaps WHERE invalid_reason IS NOT NULL)",
                          ""))
            return false;
    }
    return true;
}

bool store_invalid_apply(StoreInvalid *invalid, Store *store, GError **error)
{
    bool any = false;
    for (unsigned i = 0; i < RECORDS; i++)
        any = any || in_use(&invalid->records[i]);
    if (!any || fault("invalid-file-unread"))
        return true;
    if (!store_run_transaction(store, apply, invalid, error))
        return false;
    if (!fill(invalid)) {
        storage_error_set_errno(error, errno, "cannot write to %s", invalid->path);
        return false;
    }
    return true;
}
