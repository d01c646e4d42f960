/* Replies as they leave: gathered in a buffer so that one send carries many, large data sent from
 * where it lies, cached data spliced from the file. Owned by the connection's thread; sending
 * waits for a client that reads slowly, which holds up nobody else.
 *
 * When the connection has failed `broken` is set and everything is dropped from then on. */
#ifndef NBD_OUTPUT_H
#define NBD_OUTPUT_H

#include "daemon/nbd/pool.h"
#include "daemon/nbd/stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTPUT_SMALL ((size_t)32 << 10)
#define OUTPUT_LARGE (((size_t)256 << 10) + POOL_ROOM)

typedef struct {
    Stream *stream;
    PoolAccount *account;
    uint8_t *buffer; /* NULL while idle */
    size_t size, used;
    int pipe[2]; /* -1: none */
    size_t pipe_size;
    bool no_pipe; /* there cannot be one that is worth it */
    bool broken;
} Output;

void output_init(Output *output, Stream *stream, PoolAccount *account);
void output_clear(Output *output);

/* Room for length bytes in one piece; sends what is there if need be. NULL: broken, or (length >
 * OUTPUT_SMALL) the pool does not give that much now. Used by output_add, before anything else. */
uint8_t *output_room(Output *output, size_t length);
void output_add(Output *output, size_t length);
/* How much of that there is without sending, or getting a larger buffer. */
static inline size_t output_left(const Output *output)
{
    return output->buffer == NULL ? OUTPUT_SMALL : output->size - output->used;
}
/* What was added, then data, from where it is. */
bool output_send(Output *output, const void *data, size_t length);
/* more: other bytes follow at once. */
bool output_flush(Output *output, bool more);
/* Gives back buffer and pipe. Nothing is unsent. */
void output_release(Output *output);

/* The most that one splice moves from this offset, 0 if there is no splicing. */
size_t output_pipe_room(Output *output, uint64_t offset);
/* Loads up to length (<= output_pipe_room) bytes of the file into the pipe: how many, or a negative
 * errno (-EIO for the end of the file). The pipe was empty. */
ssize_t output_pipe_load(Output *output, int fd, uint64_t offset, size_t length);
/* What was added, then length bytes out of the pipe. */
bool output_pipe_send(Output *output, size_t length);

#endif
