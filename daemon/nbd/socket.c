#include "daemon/nbd/socket.h"
#include "storage/error.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024
/* A free port of one address of a host may be taken on the next one. */
#define PORT_TRIES 16
/* How long another process may hold the folder's lock. */
#define LOCK_TRIES   100
#define LOCK_WAIT_US 20000

static int new_socket(int family)
{
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

void listen_sockets_close(ListenSockets *sockets)
{
    struct stat now;
    if (sockets->path != NULL && lstat(sockets->path, &now) == 0 && now.st_dev == sockets->device &&
        now.st_ino == sockets->inode)
        unlink(sockets->path);
    for (unsigned i = 0; i < sockets->count; i++) {
        /* A main loop that waits for it right now keeps it open a moment longer: it must not take
         * connections, or hold the port, meanwhile. */
        shutdown(sockets->fds[i], SHUT_RDWR);
        close(sockets->fds[i]);
    }
    sockets->count = 0;
    g_clear_pointer(&sockets->path, g_free);
}

/* --- Unix --- */

/* Between finding a socket dead and replacing it nobody else may do the same: two daemons would
 * remove each other's. The folder's lock leaves nothing behind. */
static int lock_folder(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = -1;
    for (unsigned i = 0; i < LOCK_TRIES && result != 0; i++) {
        if (i > 0)
            g_usleep(LOCK_WAIT_US);
        result = flock(fd, LOCK_EX | LOCK_NB);
        if (result != 0 && errno != EWOULDBLOCK)
            break;
    }
    if (result != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static bool is_dead(const struct sockaddr_un *name)
{
    int fd = new_socket(AF_UNIX);
    if (fd < 0)
        return false;
    bool dead =
        connect(fd, (const struct sockaddr *)name, sizeof *name) != 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

/* With the folder locked. */
static bool bind_unix(int fd, const struct sockaddr_un *name, GError **error)
{
    struct stat there;
    if (bind(fd, (const struct sockaddr *)name, sizeof *name) == 0)
        return true;
    if (errno != EADDRINUSE) {
        storage_error_set_errno(error, errno, "cannot listen on %s", name->sun_path);
        return false;
    }
    if (lstat(name->sun_path, &there) == 0 && !S_ISSOCK(there.st_mode)) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_EXISTS,
                    "%s exists and is not a socket: it is left alone", name->sun_path);
        return false;
    }
    if (!is_dead(name)) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_EXISTS, "somebody listens on %s already",
                    name->sun_path);
        return false;
    }
    unlink(name->sun_path);
    if (bind(fd, (const struct sockaddr *)name, sizeof *name) != 0) {
        storage_error_set_errno(error, errno, "cannot listen on %s", name->sun_path);
        return false;
    }
    return true;
}

static bool open_unix(const Address *address, ListenSockets *sockets, GError **error)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    g_strlcpy(name.sun_path, address->path, sizeof name.sun_path);
    int lock = lock_folder(address->path);
    if (lock < 0) {
        storage_error_set_errno(error, errno, "cannot lock the folder of %s", address->path);
        return false;
    }
    int fd = new_socket(AF_UNIX);
    bool bound = false;
    if (fd < 0)
        storage_error_set_errno(error, errno, "cannot make a socket");
    else
        bound = bind_unix(fd, &name, error);
    if (bound) {
        struct stat own;
        sockets->fds[sockets->count++] = fd;
        sockets->path = g_strdup(address->path);
        if (lstat(address->path, &own) == 0) {
            sockets->device = own.st_dev;
            sockets->inode = own.st_ino;
        }
        /* Before the lock goes: one that does not listen yet looks dead. */
        if (listen(fd, BACKLOG) != 0) {
            storage_error_set_errno(error, errno, "cannot listen on %s", address->path);
            bound = false;
        }
    } else if (fd >= 0) {
        close(fd);
    }
    close(lock);
    return bound;
}

/* --- TCP --- */

static uint16_t *port_of(struct sockaddr *name)
{
    return name->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)name)->sin6_port
                                       : &((struct sockaddr_in *)name)->sin_port;
}

/* The socket, or -1 with errno set. port: 0 takes a free one and sets it. */
static int bind_tcp(const struct addrinfo *info, uint16_t *port)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    int on = 1;
    int fd = new_socket(info->ai_family);
    if (fd < 0)
        return -1;
    memcpy(&name, info->ai_addr, info->ai_addrlen);
    *port_of((struct sockaddr *)&name) = htons(*port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* IPv4 has a socket of its own where it is wanted. */
    if (info->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&name, info->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&name, &length) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    *port = ntohs(*port_of((struct sockaddr *)&name));
    return fd;
}

/* 0, or the errno of the address that decided. One that the machine does not have (IPv6 switched
 * off) is left out while there are others. */
static int bind_all(const struct addrinfo *list, ListenSockets *sockets, uint16_t *port)
{
    int missing = EADDRNOTAVAIL;
    for (const struct addrinfo *info = list; info != NULL; info = info->ai_next) {
        if (sockets->count == LISTEN_SOCKETS)
            break;
        int fd = bind_tcp(info, port);
        if (fd >= 0)
            sockets->fds[sockets->count++] = fd;
        else if (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)
            missing = errno;
        else
            return errno;
    }
    return sockets->count > 0 ? 0 : missing;
}

static bool open_tcp(const Address *address, ListenSockets *sockets, uint16_t *ret_port,
                     GError **error)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_PASSIVE,
    };
    struct addrinfo *list;
    const char *host = strcmp(address->host, "*") == 0 ? NULL : address->host;
    int result = getaddrinfo(host, "0", &hints, &list);
    if (result != 0) {
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_INVALID, "'%s' is no host: %s",
                    address->host, result == EAI_SYSTEM ? g_strerror(errno) : gai_strerror(result));
        return false;
    }
    int errnum = EADDRINUSE;
    for (unsigned i = 0; i < PORT_TRIES && errnum == EADDRINUSE; i++) {
        *ret_port = address->port;
        errnum = bind_all(list, sockets, ret_port);
        if (errnum != 0)
            listen_sockets_close(sockets);
        if (address->port != 0)
            break;
    }
    freeaddrinfo(list);
    if (errnum == EADDRINUSE)
        g_set_error(error, STORAGE_ERROR, STORAGE_ERROR_EXISTS,
                    "somebody listens on %s port %u already", address->host, address->port);
    else if (errnum != 0)
        storage_error_set_errno(error, errnum, "cannot listen on %s port %u", address->host,
                                address->port);
    return errnum == 0;
}

bool listen_sockets_open(const Address *address, ListenSockets *ret_sockets, uint16_t *ret_port,
                         GError **error)
{
    ListenSockets sockets = {0};
    uint16_t port = 0;
    bool good = address->kind == ADDRESS_UNIX ? open_unix(address, &sockets, error)
                                              : open_tcp(address, &sockets, &port, error);
    if (!good) {
        listen_sockets_close(&sockets);
        return false;
    }
    *ret_sockets = sockets;
    *ret_port = port;
    return true;
}
