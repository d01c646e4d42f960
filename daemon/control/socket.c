#include "daemon/control/socket.h"
#include "daemon/core/api_error.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_MODE 0660
#define BACKLOG     64

static bool fail_errno(GError **error, const char *what, const char *path)
{
    api_error_set(error, ERROR_IO, NULL, "%s %s: %s", what, path, g_strerror(errno));
    return false;
}

static bool set_address(const char *path, struct sockaddr_un *ret_address, GError **error)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == 0 || strlen(path) >= sizeof(ret_address->sun_path)) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, NULL,
                      "the path of the control socket, %s, has %zu bytes; 1 to %zu are possible",
                      path, strlen(path), sizeof(ret_address->sun_path) - 1);
        return false;
    }
    g_strlcpy(ret_address->sun_path, path, sizeof(ret_address->sun_path));
    return true;
}

/* --- the lock --- */

/* The pid that the holder wrote, 0 if it has not yet. */
static pid_t read_holder(int fd)
{
    char text[32] = "";
    ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
    return length > 0 ? (pid_t)g_ascii_strtoll(text, NULL, 10) : 0;
}

static bool take_lock(const char *path, int *ret_fd, GError **error)
{
    g_autofree char *lock_path = g_strconcat(path, ".lock", NULL);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return fail_errno(error, "cannot open", lock_path);
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        if (errno == EAGAIN || errno == EACCES)
            api_error_set(error, ERROR_BUSY, NULL,
                          "the control socket %s belongs to a running daemon, pid %jd", path,
                          (intmax_t)read_holder(fd));
        else
            fail_errno(error, "cannot lock", lock_path);
        close(fd);
        return false;
    }
    char text[32];
    int length = snprintf(text, sizeof(text), "%jd\n", (intmax_t)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        fail_errno(error, "cannot write", lock_path);
        close(fd);
        return false;
    }
    *ret_fd = fd;
    return true;
}

/* --- the socket file --- */

/* Under the lock: removes what is at path if it is a socket that nobody listens on. */
static bool remove_stale(const char *path, const struct sockaddr_un *address, GError **error)
{
    struct stat info;
    if (lstat(path, &info) < 0)
        return errno == ENOENT || fail_errno(error, "cannot look at", path);
    if (!S_ISSOCK(info.st_mode)) {
        api_error_set(error, ERROR_INVALID_STATE, NULL,
                      "%s is in the way of the control socket, and it is not a socket", path);
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail_errno(error, "cannot make a socket for", path);
    int status = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    int reason = status < 0 ? errno : 0;
    close(fd);
    /* Only a refusal proves that nobody is there; EAGAIN, for one, means a full backlog. */
    if (reason != ECONNREFUSED) {
        api_error_set(error, ERROR_BUSY, NULL, "somebody listens on %s who does not hold its lock",
                      path);
        return false;
    }
    if (unlink(path) < 0 && errno != ENOENT)
        return fail_errno(error, "cannot remove the stale socket", path);
    return true;
}

static bool find_group(const char *name, gid_t *ret_gid, GError **error)
{
    const struct group *group = getgrnam(name);
    guint64 number;
    if (group) {
        *ret_gid = group->gr_gid;
        return true;
    }
    if (g_ascii_string_to_unsigned(name, 10, 0, G_MAXUINT32 - 1, &number, NULL)) {
        *ret_gid = (gid_t)number;
        return true;
    }
    api_error_set(error, ERROR_INVALID_ARGUMENT, NULL, "there is no group %s", name);
    return false;
}

/* Everything between bind and listen: nobody can connect before the file is as it should be. */
static bool prepare_file(ControlSocket *socket, const char *group, GError **error)
{
    struct stat info;
    gid_t gid = (gid_t)-1;
    if (group && !find_group(group, &gid, error))
        return false;
    if (gid != (gid_t)-1 && chown(socket->path, (uid_t)-1, gid) < 0)
        return fail_errno(error, "cannot change the group of", socket->path);
    if (chmod(socket->path, SOCKET_MODE) < 0)
        return fail_errno(error, "cannot change the mode of", socket->path);
    if (lstat(socket->path, &info) < 0)
        return fail_errno(error, "cannot look at", socket->path);
    socket->device = info.st_dev;
    socket->inode = info.st_ino;
    return true;
}

static bool open_locked(ControlSocket *made, const struct sockaddr_un *address, const char *group,
                        GError **error)
{
    if (!remove_stale(made->path, address, error))
        return false;
    made->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made->fd < 0)
        return fail_errno(error, "cannot make a socket for", made->path);
    /* The file is made with the socket's own mode, less the umask: never more than 0660. */
    if (fchmod(made->fd, SOCKET_MODE) < 0)
        return fail_errno(error, "cannot set the mode of", made->path);
    if (bind(made->fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return fail_errno(error, "cannot bind the control socket", made->path);
    if (!prepare_file(made, group, error) || listen(made->fd, BACKLOG) < 0) {
        if (error && !*error)
            fail_errno(error, "cannot listen on", made->path);
        unlink(made->path);
        return false;
    }
    return true;
}

bool control_socket_open(const char *path, const char *group, ControlSocket *ret_socket,
                         GError **error)
{
    struct sockaddr_un address;
    ControlSocket made = {.lock_fd = -1, .fd = -1};
    if (!set_address(path, &address, error))
        return false;
    g_autofree char *folder = g_path_get_dirname(path);
    if (g_mkdir_with_parents(folder, 0755) < 0)
        return fail_errno(error, "cannot make the folder", folder);
    if (!take_lock(path, &made.lock_fd, error))
        return false;
    made.path = g_strdup(path);
    if (!open_locked(&made, &address, group, error)) {
        if (made.fd >= 0)
            close(made.fd);
        close(made.lock_fd);
        g_free(made.path);
        return false;
    }
    *ret_socket = made;
    return true;
}

void control_socket_shut(ControlSocket *socket)
{
    struct stat info;
    if (socket->fd < 0)
        return;
    close(socket->fd);
    socket->fd = -1;
    if (lstat(socket->path, &info) == 0 && info.st_dev == socket->device &&
        info.st_ino == socket->inode)
        unlink(socket->path);
}

void control_socket_close(ControlSocket *socket)
{
    control_socket_shut(socket);
    if (socket->lock_fd >= 0)
        close(socket->lock_fd);
    socket->lock_fd = -1;
    g_clear_pointer(&socket->path, g_free);
}
