/* Block status of a whole export, as fast as one client can ask: each request begins where the
 * last answer ended, since only then is it known. */
#include "load.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COMMAND_STATUS = 7, CHUNK_DONE = 1, CHUNK_NONE = 0, CHUNK_STATUS = 5, CHUNK_STATUS_EXT = 6 };
#define REQUEST_MAGIC    UINT32_C(0x25609513)
#define STRUCTURED_MAGIC UINT32_C(0x668e33ef)
#define EXTENDED_REQUEST UINT32_C(0x21e41c71)
#define EXTENDED_REPLY   UINT32_C(0x6e8a278c)
#define CHUNK_BYTES      (16u << 20)

typedef struct {
    int fd;
    bool extended;
    unsigned char *data; /* CHUNK_BYTES */
    Result *result;
} Status;

static uint64_t get(const unsigned char *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static void put(unsigned char *at, size_t bytes, uint64_t value)
{
    for (size_t i = bytes; i-- > 0; value >>= 8)
        at[i] = (unsigned char)value;
}

/* Pairs of a length and flags, behind the context's id (and, extended, how many there are). */
static uint64_t take_extents(Status *status, uint64_t length)
{
    size_t number = status->extended ? 8 : 4;
    uint64_t covered = 0;
    for (uint64_t at = number; at + 2 * number <= length; at += 2 * number) {
        uint64_t extent = get(status->data + at, number);
        covered += extent;
        status->result->extents++;
        if (get(status->data + at + number, number))
            status->result->dirty += extent;
    }
    return covered;
}

/* Answers how many bytes the answer is about. */
static uint64_t ask(Status *status, uint64_t offset, uint64_t length)
{
    unsigned char request[32] = {0}, chunk[32];
    size_t number = status->extended ? 8 : 4, head = status->extended ? 32 : 20;
    put(request, 4, status->extended ? EXTENDED_REQUEST : REQUEST_MAGIC);
    put(request + 6, 2, COMMAND_STATUS);
    put(request + 8, 8, offset);
    put(request + 16, 8, offset);
    put(request + 24, number, length);
    wire_send(status->fd, request, 24 + number);
    uint64_t covered = 0;
    do {
        wire_receive(status->fd, chunk, head);
        uint64_t bytes = get(chunk + head - number, number), type = get(chunk + 6, 2);
        errno = 0;
        if (get(chunk, 4) != (status->extended ? EXTENDED_REPLY : STRUCTURED_MAGIC) ||
            bytes > CHUNK_BYTES)
            wire_die("that is no chunk");
        wire_receive(status->fd, status->data, bytes);
        errno = 0;
        if (type == (status->extended ? CHUNK_STATUS_EXT : CHUNK_STATUS))
            covered = take_extents(status, bytes);
        else if (type != CHUNK_NONE)
            wire_die("block status is refused");
    } while (!(get(chunk + 4, 2) & CHUNK_DONE));
    errno = 0;
    if (!covered)
        wire_die("an answer about nothing");
    return covered;
}

void run_status(int fd, uint64_t size, bool extended, Result *result)
{
    /* What 32 bits hold of whole 64 KiB. */
    const uint64_t most = extended ? UINT64_MAX : UINT32_MAX - 65535;
    Status status = {fd, extended, malloc(CHUNK_BYTES), result};
    if (!status.data)
        wire_die("memory");
    for (uint64_t offset = 0; offset < size;) {
        uint64_t start = now_ns(), rest = size - offset;
        offset += ask(&status, offset, rest < most ? rest : most);
        histogram_add(&result->latency, now_ns() - start);
        result->requests++;
    }
    free(status.data);
}
