/* Block status of a whole export, as fast as one client can ask: each request begins where the
 * last answer ended, since only then is it known. */
#include "load.h"
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COMMAND_STATUS = 7, CHUNK_DONE = 1, CHUNK_NONE = 0, CHUNK_STATUS = 5 };
#define REQUEST_MAGIC    UINT32_C(0x25609513)
#define STRUCTURED_MAGIC UINT32_C(0x668e33ef)
#define CHUNK_BYTES      (16u << 20)

typedef struct {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t length;
} __attribute__((packed)) Chunk;

static uint64_t take_extents(const unsigned char *data, uint32_t length, Result *result)
{
    uint64_t covered = 0;
    for (uint32_t at = 4; at + 8 <= length; at += 8) {
        uint32_t pair[2];
        memcpy(pair, data + at, 8);
        covered += be32toh(pair[0]);
        result->extents++;
        if (be32toh(pair[1]))
            result->dirty += be32toh(pair[0]);
    }
    return covered;
}

/* Answers how many bytes the answer is about. */
static uint64_t ask(int fd, uint64_t offset, uint32_t length, unsigned char *data, Result *result)
{
    struct {
        uint32_t magic;
        uint16_t flags, type;
        uint64_t cookie, offset;
        uint32_t length;
    } __attribute__((packed))
    request = {htobe32(REQUEST_MAGIC), 0, htobe16(COMMAND_STATUS), htobe64(offset), htobe64(offset),
               htobe32(length)};
    wire_send(fd, &request, sizeof(request));
    uint64_t covered = 0;
    for (;;) {
        Chunk chunk;
        wire_receive(fd, &chunk, sizeof(chunk));
        uint32_t bytes = be32toh(chunk.length);
        errno = 0;
        if (be32toh(chunk.magic) != STRUCTURED_MAGIC || bytes > CHUNK_BYTES)
            wire_die("that is no chunk");
        wire_receive(fd, data, bytes);
        errno = 0;
        if (be16toh(chunk.type) == CHUNK_STATUS)
            covered = take_extents(data, bytes, result);
        else if (be16toh(chunk.type) != CHUNK_NONE)
            wire_die("block status is refused");
        if (be16toh(chunk.flags) & CHUNK_DONE)
            break;
    }
    errno = 0;
    if (!covered)
        wire_die("an answer about nothing");
    return covered;
}

void run_status(int fd, uint64_t size, Result *result)
{
    const uint64_t most = UINT32_MAX - 65535; /* what 32 bits hold of whole 64 KiB */
    unsigned char *data = malloc(CHUNK_BYTES);
    if (!data)
        wire_die("memory");
    for (uint64_t offset = 0; offset < size;) {
        uint64_t start = now_ns(), rest = size - offset;
        offset += ask(fd, offset, (uint32_t)(rest < most ? rest : most), data, result);
        histogram_add(&result->latency, now_ns() - start);
        result->requests++;
    }
    free(data);
}
