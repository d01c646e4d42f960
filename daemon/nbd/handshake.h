/* The handshake phase on the server's side: greeting and option haggling ("Fixed newstyle
 * negotiation"), until the client has an export or is gone. Runs on the connection's thread. */
#ifndef NBD_HANDSHAKE_H
#define NBD_HANDSHAKE_H

#include "daemon/core/client.h"
#include "daemon/nbd/meta_context.h"
#include "daemon/nbd/stream.h"
#include "daemon/nbd/wire.h"

/* What was settled. */
typedef struct {
    NbdMode mode;
    uint16_t flags;         /* transmission flags the client was told */
    uint32_t minimum_block; /* what the client promised to keep to; 1: nothing */
    /* QEMU from 8.2 on sends extended WRITEs without NBD_CMD_FLAG_PAYLOAD_LEN, and its own server
     * takes them. A client that negotiates exactly as it does gets the same; any other one has lost
     * track of what it sends. */
    bool bare_writes;
    ExportView view; /* its disk may be used until client_closed */
    MetaSelection contexts;
} NbdSession;

void nbd_session_clear(NbdSession *session);

/* True: the client is attached to ret_session->view and expects the transmission phase. False: the
 * connection is to be closed; ret_session is empty. wake_fd: an eventfd that is written to when
 * the connection is to end; options are then answered ERR_SHUTDOWN for a moment. */
bool nbd_handshake(Stream *stream, Client *client, int wake_fd, NbdSession *ret_session);

#endif
