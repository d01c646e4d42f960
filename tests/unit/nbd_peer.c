#include "tests/unit/nbd_peer.h"
#include "tests/unit/check.h"
#include <glib.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Used up by a failure alone. */
#define PATIENCE_MS 60000

void peer_write(int fd, const void *data, size_t length)
{
    const uint8_t *next = data;
    while (length > 0) {
        ssize_t n = send(fd, next, length, MSG_NOSIGNAL);
        assert_true(n > 0);
        next += n;
        length -= (size_t)n;
    }
}

static ssize_t receive(int fd, void *data, size_t length)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    if (poll(&readable, 1, PATIENCE_MS) != 1)
        fail_msg("no answer");
    return recv(fd, data, length, 0);
}

void peer_read(int fd, void *data, size_t length)
{
    uint8_t *next = data;
    while (length > 0) {
        ssize_t n = receive(fd, next, length);
        if (n <= 0)
            fail_msg("the connection has ended");
        next += n;
        length -= (size_t)n;
    }
}

void peer_expect_end(int fd)
{
    uint8_t byte;
    if (receive(fd, &byte, 1) > 0)
        fail_msg("the connection goes on");
}

void peer_greet(int fd, uint32_t flags)
{
    uint8_t greeting[18], answer[4];
    peer_read(fd, greeting, sizeof greeting);
    assert_memory_equal(greeting, "NBDMAGICIHAVEOPT\0\x03", 18);
    nbd_put32(answer, flags);
    peer_write(fd, answer, sizeof answer);
}

void peer_option(int fd, uint32_t option, const void *payload, size_t length)
{
    uint8_t header[NBD_OPTION_HEADER];
    nbd_put64(header, NBD_OPTION_MAGIC);
    nbd_put32(header + 8, option);
    nbd_put32(header + 12, (uint32_t)length);
    peer_write(fd, header, sizeof header);
    peer_write(fd, payload, length);
}

void peer_reply(int fd, uint32_t option, PeerReply *ret_reply)
{
    uint8_t header[NBD_OPTION_REPLY_HEADER];
    peer_read(fd, header, sizeof header);
    assert_int_equal(nbd_get64(header), NBD_OPTION_REPLY_MAGIC);
    assert_int_equal(nbd_get32(header + 8), option);
    ret_reply->type = nbd_get32(header + 12);
    ret_reply->length = nbd_get32(header + 16);
    assert_true(ret_reply->length < sizeof ret_reply->data);
    peer_read(fd, ret_reply->data, ret_reply->length);
    ret_reply->data[ret_reply->length] = '\0';
}

void peer_expect(int fd, uint32_t option, uint32_t type)
{
    PeerReply reply;
    peer_reply(fd, option, &reply);
    if (reply.type != type)
        fail_msg("option %u: reply %#x (%s), not %#x", option, reply.type, (char *)reply.data,
                 type);
}

size_t peer_info_payload(uint8_t *out, const char *name)
{
    size_t length = strlen(name);
    nbd_put32(out, (uint32_t)length);
    memcpy(out + 4, name, length);
    nbd_put16(out + 4 + length, 0);
    return 6 + length;
}

size_t peer_meta_payload(uint8_t *out, const char *name, const char *const *queries)
{
    size_t length = strlen(name), at = 8 + length;
    uint32_t count = 0;
    nbd_put32(out, (uint32_t)length);
    memcpy(out + 4, name, length);
    for (; queries[count] != NULL; count++) {
        size_t n = strlen(queries[count]);
        nbd_put32(out + at, (uint32_t)n);
        memcpy(out + at + 4, queries[count], n);
        at += 4 + n;
    }
    nbd_put32(out + 4 + length, count);
    return at;
}

void peer_go(int fd, NbdMode mode, const char *const *contexts)
{
    uint8_t payload[8192];
    PeerReply reply;
    peer_greet(fd, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (mode != NBD_MODE_SIMPLE) {
        uint32_t option =
            mode == NBD_MODE_EXTENDED ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY;
        peer_option(fd, option, NULL, 0);
        peer_expect(fd, option, NBD_REP_ACK);
    }
    if (contexts != NULL) {
        peer_option(fd, NBD_OPT_SET_META_CONTEXT, payload,
                    peer_meta_payload(payload, "e", contexts));
        do
            peer_reply(fd, NBD_OPT_SET_META_CONTEXT, &reply);
        while (reply.type == NBD_REP_META_CONTEXT);
        assert_int_equal(reply.type, NBD_REP_ACK);
    }
    peer_option(fd, NBD_OPT_GO, payload, peer_info_payload(payload, "e"));
    do
        peer_reply(fd, NBD_OPT_GO, &reply);
    while (reply.type == NBD_REP_INFO);
    assert_int_equal(reply.type, NBD_REP_ACK);
}

void peer_request(int fd, NbdMode mode, uint16_t type, uint16_t flags, uint64_t cookie,
                  uint64_t offset, uint64_t length)
{
    uint8_t header[NBD_MAX_REQUEST_HEADER];
    bool extended = mode == NBD_MODE_EXTENDED;
    if (extended && type == NBD_CMD_WRITE)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    nbd_put32(header, extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
    nbd_put16(header + 4, flags);
    nbd_put16(header + 6, type);
    nbd_put64(header + 8, cookie);
    nbd_put64(header + 16, offset);
    if (extended)
        nbd_put64(header + 24, length);
    else
        nbd_put32(header + 24, (uint32_t)length);
    peer_write(fd, header, nbd_request_header(mode));
}

void peer_chunk(int fd, NbdMode mode, size_t data_length, PeerChunk *ret_chunk)
{
    *ret_chunk = (PeerChunk){0};
    peer_next_chunk(fd, mode, data_length, ret_chunk);
}

void peer_next_chunk(int fd, NbdMode mode, size_t data_length, PeerChunk *chunk)
{
    uint8_t header[32];
    *chunk = (PeerChunk){.flags = NBD_REPLY_FLAG_DONE, .data = chunk->data, .room = chunk->room};
    if (mode == NBD_MODE_SIMPLE) {
        peer_read(fd, header, 16);
        assert_int_equal(nbd_get32(header), NBD_SIMPLE_REPLY_MAGIC);
        chunk->error = nbd_get32(header + 4);
        chunk->cookie = nbd_get64(header + 8);
        chunk->length = chunk->error ? 0 : (uint32_t)data_length;
    } else {
        bool extended = mode == NBD_MODE_EXTENDED;
        peer_read(fd, header, extended ? 32 : 20);
        assert_int_equal(nbd_get32(header),
                         extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
        chunk->flags = nbd_get16(header + 4);
        chunk->type = nbd_get16(header + 6);
        chunk->cookie = nbd_get64(header + 8);
        chunk->length = extended ? (uint32_t)nbd_get64(header + 24) : nbd_get32(header + 16);
    }
    if (chunk->room <= chunk->length) {
        g_free(chunk->data);
        chunk->room = (size_t)chunk->length + 1;
        chunk->data = g_malloc(chunk->room);
    }
    peer_read(fd, chunk->data, chunk->length);
    if (chunk->type & 0x8000)
        chunk->error = nbd_get32(chunk->data);
}

uint32_t peer_result(int fd, NbdMode mode, uint64_t cookie)
{
    PeerChunk chunk;
    peer_chunk(fd, mode, 0, &chunk);
    assert_int_equal(chunk.cookie, cookie);
    assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
    g_free(chunk.data);
    return chunk.error;
}
