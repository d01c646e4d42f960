/* The transmission phase: takes requests, does them here or lets them be done, answers them, until
 * the client leaves, breaks the protocol, or is told to. Runs on the connection's thread. */
#ifndef NBD_TRANSMISSION_H
#define NBD_TRANSMISSION_H

#include "daemon/nbd/handshake.h"
#include "daemon/nbd/pool.h"

/* Returns when nothing is in flight any more and what could be answered has been.
 * account: for its buffers; empty again afterwards. wake_fd: an eventfd. stop: NBD_STOP_*, raised
 * by others, who then also shut the socket down (DRAIN: its receiving side). */
void nbd_transmit(Stream *stream, Client *client, const NbdSession *session, PoolAccount *account,
                  int wake_fd, const _Atomic int *stop);

#endif
