/* The control socket as a file: made under a lock, so that a living daemon is never robbed of it
 * and what a dead one left behind is replaced.
 *
 * The lock is an OFD lock on PATH.lock, which holds the pid of its holder for others to read. It
 * is let go with the process, however that ends; the file stays (removing it would race). */
#ifndef CONTROL_SOCKET_H
#define CONTROL_SOCKET_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    char *path;
    int lock_fd, fd; /* listening, non-blocking */
    dev_t device;    /* of the socket file, to remove no other one */
    ino_t inode;
} ControlSocket;

/* group: name or number, or NULL. The mode is 0660 before anybody can connect. Makes the folder
 * (0755) if it is missing. Errors are API_ERROR: busy when another daemon has it, invalid-state
 * when something that is no socket is in the way, invalid-argument, io. */
bool control_socket_open(const char *path, const char *group, ControlSocket *ret_socket,
                         GError **error);

/* Stops listening and removes the file; the lock is kept. */
void control_socket_shut(ControlSocket *socket);
/* And lets the lock go. */
void control_socket_close(ControlSocket *socket);

#endif
