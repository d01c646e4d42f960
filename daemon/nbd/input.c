#include "daemon/nbd/input.h"
#include <errno.h>
#include <glib.h>
#include <string.h>

void input_init(Input *input, Stream *stream, PoolAccount *account)
{
    *input = (Input){.stream = stream, .account = account};
}

void input_clear(Input *input)
{
    pool_give(input->account, input->buffer, input->size);
    input->buffer = NULL;
    input->size = input->start = input->end = 0;
    input->was_full = false;
}

void input_consume(Input *input, size_t length)
{
    input->start += length;
    if (input->start == input->end)
        input->start = input->end = 0;
}

static bool resize(Input *input, size_t size, bool base)
{
    uint8_t *buffer = pool_take(input->account, size, base, &size);
    if (buffer == NULL)
        return false;
    size_t available = input_available(input);
    if (available > 0)
        memcpy(buffer, input_data(input), available);
    pool_give(input->account, input->buffer, input->size);
    input->buffer = buffer;
    input->size = size;
    input->start = 0;
    input->end = available;
    return true;
}

bool input_reserve(Input *input, size_t length)
{
    if (input->buffer == NULL && !resize(input, INPUT_SMALL, true))
        return false;
    if (length > input->size && (length > INPUT_LARGE || !resize(input, INPUT_LARGE, false)))
        return false;
    if (length > input->size - input->start) {
        memmove(input->buffer, input_data(input), input_available(input));
        input->end -= input->start;
        input->start = 0;
    }
    return true;
}

int input_receive(Input *input, struct iovec first, size_t most, bool wait, size_t *ret_first)
{
    /* A client that fills the buffer has more to say than it holds: many small writes. */
    if (input->was_full && input->size < INPUT_LARGE)
        resize(input, INPUT_LARGE, false);
    if (!input_reserve(input, MIN(input_available(input) + 1, INPUT_SMALL)))
        return -ENOMEM;
    if (input->end == input->size)
        input_reserve(input, input->size); /* moves what is there to the front */
    most = MIN(most, input->size - input->end);
    struct iovec parts[2] = {first, {input->buffer + input->end, most}};
    int skip = first.iov_len == 0 ? 1 : 0;
    g_assert(first.iov_len > 0 || most > 0);
    ssize_t n = stream_receive(input->stream, parts + skip, 2 - skip, wait);
    if (n < 0)
        return (int)n;
    size_t in_first = MIN((size_t)n, first.iov_len);
    input->end += (size_t)n - in_first;
    input->was_full = input->end == input->size;
    *ret_first = in_first;
    return 0;
}

void input_release(Input *input)
{
    if (input_available(input) == 0)
        input_clear(input);
}
