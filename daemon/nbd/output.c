#include "daemon/nbd/output.h"
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

#define PIPE_SIZE (1u << 20)
/* A smaller pipe (the user's share of pipe pages is used up) costs more calls than a copy. */
#define PIPE_WORTH (256u << 10)
#define PAGE       4096u

void output_init(Output *output, Stream *stream, PoolAccount *account)
{
    *output = (Output){
        .stream = stream,
        .account = account,
        .pipe = {-1, -1},
        .no_pipe = !stream_can_splice(stream),
    };
}

static void close_pipe(Output *output)
{
    for (int i = 0; i < 2; i++) {
        if (output->pipe[i] >= 0)
            close(output->pipe[i]);
        output->pipe[i] = -1;
    }
    output->pipe_size = 0;
}

static void break_off(Output *output)
{
    output->broken = true;
    output->used = 0;
}

void output_clear(Output *output)
{
    close_pipe(output);
    pool_give(output->account, output->buffer, output->size);
    output->buffer = NULL;
    output->size = output->used = 0;
}

void output_release(Output *output)
{
    g_assert(output->used == 0);
    output_clear(output);
}

static bool resize(Output *output, size_t size, bool base)
{
    uint8_t *buffer = pool_take(output->account, size, base, &size);
    if (buffer == NULL)
        return false;
    if (output->used > 0)
        memcpy(buffer, output->buffer, output->used);
    pool_give(output->account, output->buffer, output->size);
    output->buffer = buffer;
    output->size = size;
    return true;
}

uint8_t *output_room(Output *output, size_t length)
{
    if (output->broken)
        return NULL;
    if (output->buffer == NULL && !resize(output, OUTPUT_SMALL, true)) {
        break_off(output); /* memory is short, and without this nothing can be said */
        return NULL;
    }
    if (length <= output->size - output->used)
        return output->buffer + output->used;
    /* A batch that does not fit is worth a larger buffer. */
    if (output->size < OUTPUT_LARGE && length <= OUTPUT_LARGE)
        resize(output, OUTPUT_LARGE, false);
    if (length > output->size)
        return NULL;
    /* Without `more`: what is asked for may have to wait for the disk, or be given up. */
    if (length > output->size - output->used && !output_flush(output, false))
        return NULL;
    return output->buffer + output->used;
}

void output_add(Output *output, size_t length)
{
    output->used += length;
}

bool output_send(Output *output, const void *data, size_t length)
{
    if (output->broken)
        return false;
    struct iovec parts[2] = {
        {output->buffer, output->used},
        {(void *)data, length},
    };
    int skip = output->used == 0 ? 1 : 0;
    if (stream_send(output->stream, parts + skip, 2 - skip, false) < 0)
        break_off(output);
    output->used = 0;
    return !output->broken;
}

bool output_flush(Output *output, bool more)
{
    if (output->used > 0 && !output->broken) {
        struct iovec part = {output->buffer, output->used};
        if (stream_send(output->stream, &part, 1, more) < 0)
            break_off(output);
    }
    output->used = 0;
    return !output->broken;
}

size_t output_pipe_room(Output *output, uint64_t offset)
{
    if (output->no_pipe)
        return 0;
    if (output->pipe[0] < 0) {
        int size = -1;
        if (pipe2(output->pipe, O_CLOEXEC) == 0) {
            size = fcntl(output->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
            if (size < 0)
                size = fcntl(output->pipe[1], F_GETPIPE_SZ);
        }
        if (size < (int)PIPE_WORTH) {
            close_pipe(output);
            output->no_pipe = true;
            return 0;
        }
        output->pipe_size = (size_t)size;
    }
    /* A pipe counts pages, and the first one may be partial. */
    return output->pipe_size - offset % PAGE;
}

ssize_t output_pipe_load(Output *output, int fd, uint64_t offset, size_t length)
{
    size_t loaded = 0;
    while (loaded < length) {
        loff_t from = (loff_t)(offset + loaded);
        ssize_t n = splice(fd, &from, output->pipe[1], NULL, length - loaded, SPLICE_F_NONBLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 && loaded > 0)
            break; /* the next piece meets the error, if it is one */
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        loaded += (size_t)n;
    }
    return (ssize_t)loaded;
}

bool output_pipe_send(Output *output, size_t length)
{
    if (!output_flush(output, true) ||
        stream_splice(output->stream, output->pipe[0], length, false) < 0) {
        break_off(output);
        close_pipe(output); /* with what is left in it */
    }
    return !output->broken;
}
