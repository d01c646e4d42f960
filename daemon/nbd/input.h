/* Requests as they arrive: a buffer that one receive fills with as many as there are. Owned by the
 * connection's thread.
 *
 * It starts small, grows for payload and for clients that send much at once as far as the pool
 * allows, and is given back when the client is idle. */
#ifndef NBD_INPUT_H
#define NBD_INPUT_H

#include "daemon/nbd/pool.h"
#include "daemon/nbd/stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INPUT_SMALL ((size_t)16 << 10)
/* The largest write that is done from this buffer, with its header (pool.h: POOL_ROOM). */
#define INPUT_LARGE (((size_t)256 << 10) + POOL_ROOM)

typedef struct {
    Stream *stream;
    PoolAccount *account;
    uint8_t *buffer; /* NULL while idle */
    size_t size, start, end;
    bool was_full;
} Input;

void input_init(Input *input, Stream *stream, PoolAccount *account);
void input_clear(Input *input);

static inline const uint8_t *input_data(const Input *input)
{
    return input->buffer + input->start;
}
static inline size_t input_available(const Input *input)
{
    return input->end - input->start;
}
void input_consume(Input *input, size_t length);

/* Makes room for length bytes in one piece, counting those that are there. False: the pool does not
 * give that much now. Any length up to INPUT_SMALL is granted. */
bool input_reserve(Input *input, size_t length);
/* Receives into `first` (may be empty), then into this buffer, at most `most` bytes there.
 * *ret_first: bytes that went into first. 0, or a negative errno of stream_receive; -ENOMEM. */
int input_receive(Input *input, struct iovec first, size_t most, bool wait, size_t *ret_first);
/* Gives the buffer back if nothing is in it. */
void input_release(Input *input);

#endif
