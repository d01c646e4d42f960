/* Sockets that listen: made from an address, and taken away again. */
#ifndef NBD_SOCKET_H
#define NBD_SOCKET_H

#include "daemon/nbd/address.h"
#include <sys/types.h>

#define LISTEN_SOCKETS 8 /* a host name may stand for several addresses */

typedef struct {
    int fds[LISTEN_SOCKETS];
    unsigned count;
    char *path; /* of a Unix socket, with what it is, so that no other's file is removed */
    dev_t device;
    ino_t inode;
} ListenSockets;

/* Blocks (name resolution). *ret_port is the real one of a TCP address. STORAGE_ERRORs: INVALID (no
 * such host), EXISTS (somebody listens there, or something that is no socket is there), IO. */
bool listen_sockets_open(const Address *address, ListenSockets *ret_sockets, uint16_t *ret_port,
                         GError **error);
void listen_sockets_close(ListenSockets *sockets);

#endif
