/* Whether a request may be done, and what the client is told when it fails. No I/O. */
#ifndef NBD_VALIDATE_H
#define NBD_VALIDATE_H

#include "daemon/nbd/handshake.h"

/* A compact WRITE that is too large is read away and refused up to here; a longer one closes the
 * connection ("Size constraints": it may be deemed a denial of service). */
#define NBD_MAX_DRAIN (2 * (uint64_t)NBD_MAX_PAYLOAD)

/* NBD_SUCCESS, or the error to answer with, and a few words for the client. size: of the disk now,
 * in bytes. Not for DISC. The effect length of a BLOCK_STATUS with a payload is not here: it is
 * checked with nbd_validate_status once it has been read. */
uint32_t nbd_validate(const NbdSession *session, uint64_t size, const NbdRequest *request,
                      const char **ret_text);

/* A BLOCK_STATUS of this effect length. */
uint32_t nbd_validate_status(const NbdSession *session, uint64_t size, uint64_t offset,
                             uint64_t length, const char **ret_text);

/* What follows this header cannot be read away: the connection is to be closed. */
bool nbd_payload_is_hostile(NbdMode mode, const NbdRequest *request);
/* An extended WRITE without its payload flag: after the answer nobody knows where the next request
 * begins. */
bool nbd_request_loses_track(NbdMode mode, const NbdRequest *request);

/* The one place where an errno (> 0) becomes an NBD error: "Error values" says which may appear
 * where. */
uint32_t nbd_error_of_errno(int errnum, const NbdRequest *request);

#endif
