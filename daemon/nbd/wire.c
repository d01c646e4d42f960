#include "daemon/nbd/wire.h"
#include <string.h>

bool nbd_decode_option(const uint8_t *in, uint32_t *ret_option, uint32_t *ret_length)
{
    if (nbd_get64(in) != NBD_OPTION_MAGIC)
        return false;
    *ret_option = nbd_get32(in + 8);
    *ret_length = nbd_get32(in + 12);
    return true;
}

void nbd_encode_option_reply(uint8_t *out, uint32_t option, uint32_t type, uint32_t length)
{
    nbd_put64(out, NBD_OPTION_REPLY_MAGIC);
    nbd_put32(out + 8, option);
    nbd_put32(out + 12, type);
    nbd_put32(out + 16, length);
}

size_t nbd_request_header(NbdMode mode)
{
    return mode == NBD_MODE_EXTENDED ? 32 : 28;
}

bool nbd_decode_request(NbdMode mode, const uint8_t *in, NbdRequest *ret_request)
{
    bool extended = mode == NBD_MODE_EXTENDED;
    if (nbd_get32(in) != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
        return false;
    *ret_request = (NbdRequest){
        .flags = nbd_get16(in + 4),
        .type = nbd_get16(in + 6),
        .cookie = nbd_get64(in + 8),
        .offset = nbd_get64(in + 16),
        .length = extended ? nbd_get64(in + 24) : nbd_get32(in + 24),
    };
    return true;
}

uint64_t nbd_request_payload(NbdMode mode, const NbdRequest *request)
{
    bool payload = mode == NBD_MODE_EXTENDED ? (request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0
                                             : request->type == NBD_CMD_WRITE;
    return payload ? request->length : 0;
}

static size_t encode_simple(uint8_t *out, const NbdRequest *request, uint32_t error)
{
    nbd_put32(out, NBD_SIMPLE_REPLY_MAGIC);
    nbd_put32(out + 4, error);
    nbd_put64(out + 8, request->cookie);
    return 16;
}

/* The header of a chunk with length bytes of payload. */
static size_t encode_chunk(NbdMode mode, uint8_t *out, const NbdRequest *request, uint16_t type,
                           uint32_t length, bool done)
{
    bool extended = mode == NBD_MODE_EXTENDED;
    nbd_put32(out, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
    nbd_put16(out + 4, done ? NBD_REPLY_FLAG_DONE : 0);
    nbd_put16(out + 6, type);
    nbd_put64(out + 8, request->cookie);
    if (!extended) {
        nbd_put32(out + 16, length);
        return 20;
    }
    nbd_put64(out + 16, request->offset);
    nbd_put64(out + 24, length);
    return 32;
}

size_t nbd_encode_done(NbdMode mode, uint8_t *out, const NbdRequest *request)
{
    if (mode == NBD_MODE_SIMPLE)
        return encode_simple(out, request, NBD_SUCCESS);
    return encode_chunk(mode, out, request, NBD_REPLY_TYPE_NONE, 0, true);
}

size_t nbd_encode_data(NbdMode mode, uint8_t *out, const NbdRequest *request, uint64_t offset,
                       uint32_t length, bool done)
{
    if (mode == NBD_MODE_SIMPLE)
        return encode_simple(out, request, NBD_SUCCESS);
    size_t n = encode_chunk(mode, out, request, NBD_REPLY_TYPE_OFFSET_DATA, 8 + length, done);
    nbd_put64(out + n, offset);
    return n + 8;
}

size_t nbd_encode_hole(NbdMode mode, uint8_t *out, const NbdRequest *request, uint64_t offset,
                       uint32_t length, bool done)
{
    size_t n = encode_chunk(mode, out, request, NBD_REPLY_TYPE_OFFSET_HOLE, 12, done);
    nbd_put64(out + n, offset);
    nbd_put32(out + n + 8, length);
    return n + 12;
}

static size_t encode_error(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t error,
                           const uint64_t *offset, const char *text)
{
    if (mode == NBD_MODE_SIMPLE)
        return encode_simple(out, request, error);
    size_t text_length = text ? strnlen(text, NBD_MAX_ERROR_TEXT) : 0;
    uint16_t type = offset ? NBD_REPLY_TYPE_ERROR_OFFSET : NBD_REPLY_TYPE_ERROR;
    uint32_t length = (uint32_t)(6 + text_length + (offset ? 8 : 0));
    size_t n = encode_chunk(mode, out, request, type, length, true);
    nbd_put32(out + n, error);
    nbd_put16(out + n + 4, (uint16_t)text_length);
    n += 6;
    if (text_length > 0)
        memcpy(out + n, text, text_length);
    n += text_length;
    if (offset) {
        nbd_put64(out + n, *offset);
        n += 8;
    }
    return n;
}

size_t nbd_encode_error(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t error,
                        const char *text)
{
    return encode_error(mode, out, request, error, NULL, text);
}

size_t nbd_encode_error_at(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t error,
                           uint64_t offset, const char *text)
{
    return encode_error(mode, out, request, error, &offset, text);
}

size_t nbd_encode_status(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t context,
                         uint32_t count, bool done)
{
    bool extended = mode == NBD_MODE_EXTENDED;
    uint32_t fixed = extended ? 8 : 4;
    uint32_t length = fixed + count * (uint32_t)nbd_extent_size(mode);
    uint16_t type = extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS;
    size_t n = encode_chunk(mode, out, request, type, length, done);
    nbd_put32(out + n, context);
    if (extended)
        nbd_put32(out + n + 4, count);
    return n + fixed;
}

size_t nbd_extent_size(NbdMode mode)
{
    return mode == NBD_MODE_EXTENDED ? 16 : 8;
}

void nbd_encode_extent(NbdMode mode, uint8_t *out, uint64_t length, uint32_t flags)
{
    if (mode == NBD_MODE_EXTENDED) {
        nbd_put64(out, length);
        nbd_put64(out + 8, flags);
    } else {
        nbd_put32(out, (uint32_t)length);
        nbd_put32(out + 4, flags);
    }
}
