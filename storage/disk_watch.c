/* The judgement of disk_watch.h. */
#include "storage/disk_watch.h"
#include "storage/error.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, uint64_t)
#endif

#define XFS_MAGIC 0x58465342
/* Of <xfs/xfs_fs.h>, which is seldom there. */
typedef struct {
    uint32_t sizes[8];
    uint64_t counts[4];
    unsigned char uuid[16];
    uint32_t rest[7];
} XfsGeometry;
#define XFS_GEOMETRY _IOR('X', 100, XfsGeometry)

#define MARK_NAME "user.nbdd.mark"
/* Far beyond any; a file may have been marked with anything. */
#define SEQUENCE_MAX (INT64_MAX / 2)
/* A write that was in flight when the process died may have reached the file this much later than
 * it was noted. */
#define IN_FLIGHT_NS (INT64_C(1000) * 1000000)

const char watch_changed_reason[] = "the file was changed by others while it was served";

static char boot_id[40];

static void read_boot_id(void)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    g_autofree char *text = NULL;
    /* Unknown it would look like another boot, and a failure for once need not mean that. */
    if (g_file_get_contents(path, &text, NULL, NULL) ||
        g_file_get_contents(path, &text, NULL, NULL))
        g_strlcpy(boot_id, g_strstrip(text), sizeof boot_id);
}

const char *watch_boot_id(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_boot_id);
    return boot_id;
}

int64_t watch_boot_time(void)
{
    struct timespec now, up;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &up);
    return (now.tv_sec - up.tv_sec) * INT64_C(1000000000) + (now.tv_nsec - up.tv_nsec);
}

static int64_t nanoseconds(struct statx_timestamp time)
{
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Fields 7 and 14 of a block device's stat: sectors written, sectors discarded. */
static uint64_t read_sectors(dev_t device)
{
    g_autofree char *path =
        g_strdup_printf("/sys/dev/block/%u:%u/stat", major(device), minor(device));
    g_autofree char *text = NULL;
    uint64_t sectors = 0;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    const char *rest = text;
    for (unsigned field = 1; field <= 14; field++) {
        char *end;
        uint64_t number = g_ascii_strtoull(rest, &end, 10);
        if (end == rest)
            break; /* an older kernel tells less */
        if (field == 7 || field == 14)
            sectors += number;
        rest = end;
    }
    return sectors;
}

/* What stays the same when it is mounted again, maybe from a device of another number: the id that
 * statfs() has is made of the UUID, but for XFS, where it is that number. */
static void identify_filesystem(int fd, const struct statfs *fs, char *ret_text, size_t size)
{
    uint32_t id[2];
    XfsGeometry geometry;
    if (fs->f_type == XFS_MAGIC && ioctl(fd, XFS_GEOMETRY, &geometry) == 0) {
        size_t length = (size_t)snprintf(ret_text, size, "xfs-");
        for (unsigned i = 0; i < sizeof geometry.uuid; i++)
            length += (size_t)snprintf(ret_text + length, size - length, "%02x", geometry.uuid[i]);
        return;
    }
    memcpy(id, &fs->f_fsid, sizeof id);
    snprintf(ret_text, size, "%lx-%08x%08x", (unsigned long)fs->f_type, id[0], id[1]);
}

bool watch_identify(const Backend *backend, WatchIdentity *ret_identity, GError **error)
{
    struct statx st;
    struct statfs fs;
    if (statx(backend->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0 ||
        fstatfs(backend->fd, &fs) < 0) {
        storage_error_set_errno(error, errno, "cannot look at %s", backend->path);
        return false;
    }
    WatchIdentity identity = {.size = atomic_load(&backend->size)};
    if (S_ISBLK(st.stx_mode)) {
        if (ioctl(backend->fd, BLKGETDISKSEQ, &identity.diskseq) < 0)
            identity.diskseq = 0;
        identity.sectors_written = read_sectors(makedev(st.stx_rdev_major, st.stx_rdev_minor));
    } else {
        identify_filesystem(backend->fd, &fs, identity.filesystem, sizeof identity.filesystem);
        identity.inode = (int64_t)st.stx_ino;
        identity.birth = st.stx_mask & STATX_BTIME ? nanoseconds(st.stx_btime) : 0;
        identity.mtime = nanoseconds(st.stx_mtime);
        identity.ctime = nanoseconds(st.stx_ctime);
    }
    *ret_identity = identity;
    return true;
}

bool watch_changed(const WatchIdentity *now, int64_t last_write)
{
    /* Those that stamp a change by this machine's clock inside the call that makes it, and never
     * afterwards; over a network the clock is another's and the call may be made much later. */
    static const char *const prompt[] = {"xfs-", "ef53-", "1021994-"};
    for (unsigned i = 0; i < G_N_ELEMENTS(prompt); i++) {
        if (g_str_has_prefix(now->filesystem, prompt[i]))
            return now->ctime > last_write;
    }
    return false;
}

BitmapWatch watch_reach(const Backend *backend)
{
    struct stat st;
    return fstat(backend->fd, &st) == 0 && S_ISBLK(st.st_mode) ? BITMAP_WATCH_BOOT
                                                               : BITMAP_WATCH_FULL;
}

bool watch_mark(const Backend *backend, const char *store_id, int64_t sequence)
{
    char text[80];
    int length = snprintf(text, sizeof text, "%s:%" PRId64, store_id, sequence);
    return fsetxattr(backend->fd, MARK_NAME, text, (size_t)length, 0) == 0;
}

bool watch_settle(const Backend *backend, GError **error)
{
    if (backend->read_only || watch_reach(backend) != BITMAP_WATCH_FULL || fsync(backend->fd) == 0)
        return true;
    storage_error_set_errno(error, errno, "cannot sync %s", backend->path);
    return false;
}

/* Whose the file's mark is ("": nobody's) and its number. It never was marked, cannot be, or lost
 * it to a power cut: that is no evidence. */
static void read_mark(const Backend *backend, char ret_store[80], int64_t *ret_sequence)
{
    ssize_t length = fgetxattr(backend->fd, MARK_NAME, ret_store, 79);
    ret_store[MAX(length, 0)] = 0;
    char *colon = strchr(ret_store, ':');
    *ret_sequence = colon ? g_ascii_strtoll(colon + 1, NULL, 10) : 0;
    ret_store[colon ? colon - ret_store : 0] = 0;
}

static char *judge_mark(const Backend *backend, const char *store_id, const WatchRow *row)
{
    char store[80];
    int64_t sequence;
    read_mark(backend, store, &sequence);
    if (store[0] == 0)
        return NULL;
    if (strcmp(store, store_id) != 0)
        return g_strdup("the disk has been written under another state directory since");
    if (sequence > row->sequence)
        return g_strdup("the state database is older than what was last written to the disk: it "
                        "was restored from a copy");
    return NULL;
}

int64_t watch_fresh_sequence(const Backend *backend, const char *store_id, const WatchRow *row,
                             const DiskPageRemains *remains)
{
    char store[80];
    int64_t sequence;
    read_mark(backend, store, &sequence);
    if (strcmp(store, store_id) != 0)
        sequence = 0;
    sequence = MAX(sequence, row->sequence);
    sequence = MAX(sequence, (int64_t)MIN(remains->sequence, (uint64_t)SEQUENCE_MAX));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    /* Commits are fewer than nanoseconds: those of earlier processes have numbers before now. */
    return MAX(MIN(sequence, SEQUENCE_MAX) + 1, now.tv_sec * INT64_C(1000000000) + now.tv_nsec);
}

static char *judge_device(const WatchRow *row, const WatchIdentity *now)
{
    const WatchIdentity *then = &row->identity;
    if (strcmp(row->boot, watch_boot_id()) != 0)
        return NULL; /* unknowable: BITMAP_WATCH_BOOT says so */
    if (then->diskseq != now->diskseq)
        return g_strdup("another device has taken its place");
    if (row->clean && then->sectors_written != now->sectors_written)
        return g_strdup("the device was written by others while it was not served");
    return NULL;
}

static char *judge_file(const WatchRow *row, const WatchIdentity *now,
                        const DiskPageRemains *remains, int64_t *ret_last_write)
{
    const WatchIdentity *then = &row->identity;
    if (strcmp(then->filesystem, now->filesystem) != 0 || then->inode != now->inode ||
        then->birth != now->birth)
        return g_strdup("another file has taken its place");
    if (row->clean) {
        *ret_last_write = now->ctime;
        if (then->size != now->size)
            return g_strdup_printf("the file's size was changed from %" PRIu64 " to %" PRIu64
                                   " while it was not served",
                                   then->size, now->size);
        if (then->mtime != now->mtime || then->ctime != now->ctime)
            return g_strdup("the file was changed while it was not served");
        return NULL;
    }
    if (strcmp(row->boot, watch_boot_id()) != 0) {
        /* Our last write was before the boot. */
        *ret_last_write = now->ctime;
        return now->ctime <= watch_boot_time()
                   ? NULL
                   : g_strdup("the file was changed after the reboot that followed an unclean "
                              "stop, and before it was served again");
    }
    if (remains->changed)
        return g_strdup(watch_changed_reason);
    if (!remains->found)
        return g_strdup("after an unclean stop, the time of the last write to it is not known");
    *ret_last_write = remains->last_write;
    if (remains->in_flight && now->ctime > remains->last_write &&
        now->ctime <= remains->last_write + IN_FLIGHT_NS)
        *ret_last_write = now->ctime;
    return now->ctime <= *ret_last_write
               ? NULL
               : g_strdup("the file was changed by others after an unclean stop");
}

char *watch_judge(const Backend *backend, const char *store_id, const WatchRow *row,
                  const WatchIdentity *now, const DiskPageRemains *remains, int64_t *ret_last_write)
{
    *ret_last_write = now->ctime;
    if (!row->present)
        return g_strdup("the state does not say how the disk was left");
    if (remains->found && remains->sequence > (uint64_t)row->sequence)
        return g_strdup("the state database is older than the disk's last use: it was restored "
                        "from a copy");
    if ((now->filesystem[0] == 0) != (row->identity.filesystem[0] == 0))
        return g_strdup("it was a file and is a block device now, or the other way round");
    char *reason =
        now->filesystem[0] ? judge_file(row, now, remains, ret_last_write) : judge_device(row, now);
    return reason ? reason : judge_mark(backend, store_id, row);
}
