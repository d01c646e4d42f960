#include "storage/lock.h"
#include "storage/error.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* QEMU's permissions, by the number of their bit. */
enum { PERM_CONSISTENT_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERM_COUNT };

#define BIT(permission) (1u << (permission))

#define USED_BASE     100
#define UNSHARED_BASE 200

static bool is_held_elsewhere(int errnum)
{
    return errnum == EAGAIN || errnum == EACCES;
}

static int hold(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

/* 0 when nobody else holds the byte, EAGAIN when somebody does. Asked for as an exclusive lock, so
 * that the shared locks of others count. */
static int probe(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) {
        return errno;
    }
    return lock.l_type == F_UNLCK ? 0 : EAGAIN;
}

static bool fail(int errnum, const char *path, const char *conflict, GError **error)
{
    if (is_held_elsewhere(errnum)) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED,
                    "%s is in use: another process %s. Look for a running virtual machine, "
                    "qemu-nbd, qemu-img or another nbdd that has it open (lsof, lslocks)",
                    path, conflict);
    } else {
        storage_error_set_errno(error, errnum, "cannot lock %s", path);
    }
    return false;
}

/* All of our own bytes first, then the questions: of two who come at once at least one then sees
 * the other. */
static bool lock_bytes(int fd, const char *path, unsigned used, unsigned unshared, GError **error)
{
    for (int i = 0; i < PERM_COUNT; i++) {
        int errnum = (used & BIT(i)) != 0 ? hold(fd, USED_BASE + i) : 0;

        if (errnum == 0 && (unshared & BIT(i)) != 0) {
            errnum = hold(fd, UNSHARED_BASE + i);
        }
        if (errnum != 0) {
            return fail(errnum, path, "has locked it exclusively", error);
        }
    }
    for (int i = 0; i < PERM_COUNT; i++) {
        int errnum = (used & BIT(i)) != 0 ? probe(fd, UNSHARED_BASE + i) : 0;

        if (errnum != 0) {
            return fail(errnum, path,
                        i == PERM_CONSISTENT_READ ? "does not let others read it"
                                                  : "does not let others write it",
                        error);
        }
        errnum = (unshared & BIT(i)) != 0 ? probe(fd, USED_BASE + i) : 0;
        if (errnum != 0) {
            return fail(errnum, path, "is writing to it", error);
        }
    }
    return true;
}

bool lock_image(int fd, const char *path, bool writer, GError **error)
{
    unsigned unshared = BIT(PERM_WRITE) | BIT(PERM_RESIZE);
    unsigned used = BIT(PERM_CONSISTENT_READ);

    if (writer) {
        used |= BIT(PERM_WRITE) | BIT(PERM_WRITE_UNCHANGED);
    }
    return lock_bytes(fd, path, used, unshared, error);
}
