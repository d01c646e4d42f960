/* A stream's calls once it is encrypted: stream.c comes here when stream->tls is set. Private to
 * the two. Same answers as in stream.h. */
#ifndef NBD_STREAM_TLS_H
#define NBD_STREAM_TLS_H

#include "daemon/nbd/stream.h"

/* Waits until the socket is ready for events (poll's): 0, or -ETIMEDOUT. In stream.c. */
int stream_wait(Stream *stream, short events, StreamPatience *patience);

int stream_tls_read_all(Stream *stream, void *buffer, size_t length, StreamPatience *patience);
int stream_tls_write_all(Stream *stream, const void *buffer, size_t length,
                         StreamPatience *patience);
ssize_t stream_tls_receive(Stream *stream, const struct iovec *parts, int count, bool wait);
int stream_tls_send(Stream *stream, struct iovec *parts, int count, bool more);

#endif
