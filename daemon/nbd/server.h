/* What all NBD connections share, and how one begins: private to listeners and connections (and to
 * tests that have a socket of their own). */
#ifndef NBD_SERVER_H
#define NBD_SERVER_H

#include "daemon/nbd/dead_peers.h"
#include "daemon/nbd/listener.h"
#include "daemon/nbd/pool.h"

/* Serves the peer on fd, which is the server's from now on, in a thread of its own. address: how
 * the client is listed. identity: "ip:192.0.2.1", "unix:1000". False: refused, and why. */
bool nbd_server_serve(NbdServer *server, int fd, const char *listener, const char *address,
                      const char *identity, char **ret_text);

/* Descriptors, threads or memory are short: up to `most` connections that sit in the handshake are
 * ended. How many. */
unsigned nbd_server_make_way(NbdServer *server, unsigned most);

const Limits *nbd_server_limits(NbdServer *server);
BufferPool *nbd_server_pool(NbdServer *server);
Registry *nbd_server_registry(NbdServer *server);
DeadPeers *nbd_server_dead_peers(NbdServer *server);
/* Threads of connections, counted from before they start to their last instruction. */
void nbd_server_enter(NbdServer *server);
void nbd_server_leave(NbdServer *server);
/* Lingering costs a thread and a socket that no bound on clients counts: true if there is room for
 * one more, and then nbd_server_linger_end follows. */
bool nbd_server_linger_begin(NbdServer *server);
void nbd_server_linger_end(NbdServer *server);

#endif
