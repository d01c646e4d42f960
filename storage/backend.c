#include "storage/backend.h"
#include "storage/error.h"
#include "storage/fault.h"
#include "storage/fd_backend.h"
#include "storage/lock.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a path may lead to. */
static const struct {
    mode_t type;
    Backend *(*create)(const char *path, int fd, bool read_only, CacheMode cache, GError **error);
} backends[] = {
    {S_IFREG, file_backend_new},
    {S_IFBLK, block_backend_new},
};

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFCHR:
        return "a character device";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    }
    return "of an unknown type";
}

static bool check_type(const struct stat *info, const char *path, size_t *ret_row, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(backends); i++) {
        if ((info->st_mode & S_IFMT) == backends[i].type) {
            *ret_row = i;
            return true;
        }
    }
    g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                "%s is %s; a disk is a regular file or a block device", path,
                type_name(info->st_mode));
    return false;
}

static bool fail_open(const char *path, int errnum, bool read_only, bool block, CacheMode cache,
                      GError **error)
{
    if (errnum == EBUSY && block) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_LOCKED,
                    "%s is in use: it is mounted, or another process or device holds it (lsblk, "
                    "lsof)",
                    path);
    } else if (errnum == EINVAL && cache == CACHE_DIRECT) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID,
                    "%s: its file system does not support direct I/O (cache=direct)", path);
    } else {
        storage_error_set_errno(error, errnum, "cannot open %s for %s", path,
                                read_only ? "reading" : "reading and writing");
    }
    return false;
}

/* Opens without ever waiting for the other end of a FIFO, whatever the path leads to by the time
 * it is opened, and looks at what was opened. */
static bool open_image(const char *path, bool read_only, CacheMode cache, int *ret_fd,
                       size_t *ret_row, GError **error)
{
    int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (read_only ? O_RDONLY : O_RDWR);
    struct stat info;
    bool block;
    int fd;

    if (stat(path, &info) != 0) {
        storage_error_set_errno(error, errno, "cannot open %s", path);
        return false;
    }
    if (!check_type(&info, path, ret_row, error)) {
        return false;
    }
    block = S_ISBLK(info.st_mode);
    flags |= cache == CACHE_DIRECT ? O_DIRECT : 0;
    flags |= block && !read_only ? O_EXCL : 0;
    do {
        fd = open(path, flags);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return fail_open(path, errno, read_only, block, cache, error);
    }
    if (fstat(fd, &info) != 0) {
        storage_error_set_errno(error, errno, "cannot look at %s", path);
        close(fd);
        return false;
    }
    if (!check_type(&info, path, ret_row, error)) {
        close(fd);
        return false;
    }
    /* O_NONBLOCK has served, and would make io_uring refuse to wait. */
    fcntl(fd, F_SETFL, flags & O_DIRECT);
    *ret_fd = fd;
    return true;
}

Backend *backend_open(const char *path, bool read_only, CacheMode cache, GError **error)
{
    Backend *backend = NULL;
    size_t row;
    int fd;

    if (!open_image(path, read_only, cache, &fd, &row, error)) {
        return NULL;
    }
    if (fault("file-not-locked") || lock_image(fd, path, !read_only, error)) {
        backend = backends[row].create(path, fd, read_only, cache, error);
    }
    if (backend == NULL) {
        close(fd);
    }
    return backend;
}

void backend_close(Backend *backend)
{
    if (backend != NULL) {
        backend->ops->close(backend);
    }
}

bool backend_identity_equal(const BackendIdentity *one, const BackendIdentity *other)
{
    return one->device == other->device && one->inode == other->inode;
}

bool backend_same(const Backend *one, const Backend *other)
{
    return backend_identity_equal(&one->identity, &other->identity);
}

bool backend_identify(const char *path, BackendIdentity *ret_identity, GError **error)
{
    struct stat info;
    size_t row;

    if (stat(path, &info) != 0) {
        storage_error_set_errno(error, errno, "cannot open %s", path);
        return false;
    }
    if (!check_type(&info, path, &row, error)) {
        return false;
    }
    *ret_identity = S_ISBLK(info.st_mode)
                        ? (BackendIdentity){.device = info.st_rdev}
                        : (BackendIdentity){.device = info.st_dev, .inode = info.st_ino};
    return true;
}
