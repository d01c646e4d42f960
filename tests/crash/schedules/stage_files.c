/* The stage's files: the linker puts the functions below in place of the library's. */
#include "tests/crash/schedules/stage.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

_Atomic int stage_failing_syncs;
_Atomic bool stage_invalid_file_fails, stage_map_fails;
_Atomic bool stage_times_stand_still, stage_times_before_boot;

/* The image as the last sync left it. */
static char *synced;
static size_t synced_size;
static struct stat image;

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
ssize_t __real_pwritev64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags);
ssize_t __real_pwrite64(int fd, const void *buffer, size_t length, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t length, off_t offset);
int __real_posix_fallocate64(int fd, off_t offset, off_t length);
int __wrap_posix_fallocate64(int fd, off_t offset, off_t length);
int __real_statx(int fd, const char *path, int flags, unsigned mask, struct statx *info);
int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *info);

static bool is_image(int fd)
{
    struct stat info;
    return synced && fstat(fd, &info) == 0 && info.st_dev == image.st_dev &&
           info.st_ino == image.st_ino;
}

static void keep(int fd)
{
    if (is_image(fd) && pread(fd, synced, synced_size, 0) != (ssize_t)synced_size)
        g_error("cannot keep what was synced");
}

void stage_watch_image(World *world)
{
    int fd = open(world->image, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &image) == 0);
    free(synced);
    synced_size = world->size;
    synced = malloc(synced_size);
    assert_non_null(synced);
    keep(fd);
    close(fd);
}

bool stage_is_durable(World *world, uint64_t offset, uint64_t length)
{
    g_autofree char *now = g_malloc(length);
    assert_int_equal(disk_pread(world->disk, now, length, offset, 0), 0);
    return memcmp(now, synced + offset, length) == 0;
}

int __wrap_fdatasync(int fd)
{
    if (is_image(fd) && atomic_load(&stage_failing_syncs) > 0) {
        atomic_fetch_sub(&stage_failing_syncs, 1);
        errno = EIO;
        return -1;
    }
    int rc = __real_fdatasync(fd);
    if (rc == 0 && is_image(fd)) {
        keep(fd);
        stage_pass("synced");
    }
    return rc;
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags)
{
    ssize_t put = __real_pwritev64v2(fd, pieces, count, offset, flags);
    if (put > 0 && (flags & RWF_DSYNC) && is_image(fd))
        keep(fd); /* of others' blocks it says too much, which no schedule here relies on */
    return put;
}

ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t length, off_t offset)
{
    if (atomic_load(&stage_invalid_file_fails) && (fcntl(fd, F_GETFL) & O_DSYNC)) {
        errno = EIO;
        return -1;
    }
    return __real_pwrite64(fd, buffer, length, offset);
}

/* What is there already has its room. */
int __wrap_posix_fallocate64(int fd, off_t offset, off_t length)
{
    struct stat info;
    if (atomic_load(&stage_map_fails) && fstat(fd, &info) == 0 && info.st_size < offset + length)
        return ENOSPC;
    return __real_posix_fallocate64(fd, offset, length);
}

int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *info)
{
    static struct statx_timestamp mtime, ctime;
    int rc = __real_statx(fd, path, flags, mask, info);
    if (rc != 0 || !is_image(fd))
        return rc;
    stage_pass("looked at");
    if (atomic_load(&stage_times_before_boot)) {
        info->stx_mtime = info->stx_ctime = (struct statx_timestamp){1};
    } else if (atomic_load(&stage_times_stand_still)) {
        info->stx_mtime = mtime;
        info->stx_ctime = ctime;
    } else {
        mtime = info->stx_mtime;
        ctime = info->stx_ctime;
    }
    return rc;
}
