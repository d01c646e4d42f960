/* The NBD wire format: the numbers of the specification (doc/proto.md of NetworkBlockDevice/nbd;
 * branch extension-ext-header for extended headers) and the encoding of its messages. No I/O, no
 * state. Everything on the wire is big-endian.
 *
 * Replies have three encodings. Callers say what they answer and hand over the mode; only this
 * module knows how a mode spells it. */
#ifndef NBD_WIRE_H
#define NBD_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "Newstyle negotiation" */
#define NBD_INIT_MAGIC         UINT64_C(0x4e42444d41474943) /* NBDMAGIC */
#define NBD_OPTION_MAGIC       UINT64_C(0x49484156454F5054) /* IHAVEOPT */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_EXPORT_NAME_ZEROES 124

/* "Request message", "Simple reply message", "Structured/Extended reply chunk message" */
#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC   0x6e8a278cu

/* "Conventions": no string is longer. */
#define NBD_MAX_STRING 4096u
/* "Size constraints": payloads up to this are never a denial of service. */
#define NBD_MAX_PAYLOAD (UINT32_C(1) << 25)

/* "Handshake flags", "Client flags" */
#define NBD_FLAG_FIXED_NEWSTYLE   0x1u
#define NBD_FLAG_NO_ZEROES        0x2u
#define NBD_FLAG_C_FIXED_NEWSTYLE 0x1u
#define NBD_FLAG_C_NO_ZEROES      0x2u

/* "Transmission flags" */
#define NBD_FLAG_HAS_FLAGS            0x0001u
#define NBD_FLAG_READ_ONLY            0x0002u
#define NBD_FLAG_SEND_FLUSH           0x0004u
#define NBD_FLAG_SEND_FUA             0x0008u
#define NBD_FLAG_ROTATIONAL           0x0010u
#define NBD_FLAG_SEND_TRIM            0x0020u
#define NBD_FLAG_SEND_WRITE_ZEROES    0x0040u
#define NBD_FLAG_SEND_DF              0x0080u
#define NBD_FLAG_CAN_MULTI_CONN       0x0100u
#define NBD_FLAG_SEND_CACHE           0x0400u
#define NBD_FLAG_SEND_FAST_ZERO       0x0800u
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD 0x1000u

/* "Option types" */
enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

/* "Option reply types" */
enum {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERROR               0x80000000u
#define NBD_REP_ERR_UNSUP           (NBD_REP_ERROR + 1)
#define NBD_REP_ERR_POLICY          (NBD_REP_ERROR + 2)
#define NBD_REP_ERR_INVALID         (NBD_REP_ERROR + 3)
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_ERROR + 5)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_ERROR + 6)
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_ERROR + 7)
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_ERROR + 9)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_ERROR + 10)

/* NBD_REP_INFO's types */
enum {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

/* "Request types" */
enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

/* "Command flags" */
#define NBD_CMD_FLAG_FUA         0x01u
#define NBD_CMD_FLAG_NO_HOLE     0x02u
#define NBD_CMD_FLAG_DF          0x04u
#define NBD_CMD_FLAG_REQ_ONE     0x08u
#define NBD_CMD_FLAG_FAST_ZERO   0x10u
#define NBD_CMD_FLAG_PAYLOAD_LEN 0x20u

/* "Structured and extended header reply flags", "Structured reply types" */
#define NBD_REPLY_FLAG_DONE 0x1u
enum {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_TYPE_ERROR = 0x8001,
    NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002,
};

/* "Error values" */
enum {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

/* --- options --- */

#define NBD_OPTION_HEADER       16u
#define NBD_OPTION_REPLY_HEADER 20u

/* False: wrong magic. */
bool nbd_decode_option(const uint8_t *in, uint32_t *ret_option, uint32_t *ret_length);
void nbd_encode_option_reply(uint8_t *out, uint32_t option, uint32_t type, uint32_t length);

/* --- requests --- */

/* What the handshake settled: how requests and replies look. */
typedef enum {
    NBD_MODE_SIMPLE,     /* compact requests, simple replies */
    NBD_MODE_STRUCTURED, /* compact requests, structured replies */
    NBD_MODE_EXTENDED,   /* extended both ways */
} NbdMode;

typedef struct {
    uint64_t cookie;
    uint64_t offset;
    uint64_t length; /* bytes: of the payload or of the effect, as the command has it */
    uint16_t flags;
    uint16_t type;
} NbdRequest;

#define NBD_MAX_REQUEST_HEADER 32u
size_t nbd_request_header(NbdMode mode); /* bytes */
/* False: wrong magic, the connection is to be closed. */
bool nbd_decode_request(NbdMode mode, const uint8_t *in, NbdRequest *ret_request);
/* Bytes that follow the header of this request. */
uint64_t nbd_request_payload(NbdMode mode, const NbdRequest *request);

/* --- replies ---
 *
 * Each writes what goes before the variable part and answers how much that is, at most
 * NBD_MAX_REPLY_HEADER. `done`: nothing more comes for this request. */

#define NBD_MAX_ERROR_TEXT   160u
#define NBD_MAX_REPLY_HEADER (32u + 14u + NBD_MAX_ERROR_TEXT)

/* Success without a payload. */
size_t nbd_encode_done(NbdMode mode, uint8_t *out, const NbdRequest *request);
/* length bytes of data from offset on follow. In NBD_MODE_SIMPLE they are the whole answer. */
size_t nbd_encode_data(NbdMode mode, uint8_t *out, const NbdRequest *request, uint64_t offset,
                       uint32_t length, bool done);
/* Zeroes that need not be sent. Not in NBD_MODE_SIMPLE. */
size_t nbd_encode_hole(NbdMode mode, uint8_t *out, const NbdRequest *request, uint64_t offset,
                       uint32_t length, bool done);
/* The last chunk of a failed request. text may be NULL and is cut to NBD_MAX_ERROR_TEXT. */
size_t nbd_encode_error(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t error,
                        const char *text);
/* The same, with the place in a READ where it failed. In NBD_MODE_SIMPLE the place is lost. */
size_t nbd_encode_error_at(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t error,
                           uint64_t offset, const char *text);

#define NBD_MAX_STATUS_HEADER 40u
/* count extents of nbd_extent_size bytes each follow. Not in NBD_MODE_SIMPLE. */
size_t nbd_encode_status(NbdMode mode, uint8_t *out, const NbdRequest *request, uint32_t context,
                         uint32_t count, bool done);
size_t nbd_extent_size(NbdMode mode);
/* length <= UINT32_MAX unless extended. */
void nbd_encode_extent(NbdMode mode, uint8_t *out, uint64_t length, uint32_t flags);

/* --- numbers --- */

static inline uint16_t nbd_get16(const uint8_t *in)
{
    uint16_t value;
    __builtin_memcpy(&value, in, sizeof value);
    return be16toh(value);
}
static inline uint32_t nbd_get32(const uint8_t *in)
{
    uint32_t value;
    __builtin_memcpy(&value, in, sizeof value);
    return be32toh(value);
}
static inline uint64_t nbd_get64(const uint8_t *in)
{
    uint64_t value;
    __builtin_memcpy(&value, in, sizeof value);
    return be64toh(value);
}
static inline void nbd_put16(uint8_t *out, uint16_t value)
{
    value = htobe16(value);
    __builtin_memcpy(out, &value, sizeof value);
}
static inline void nbd_put32(uint8_t *out, uint32_t value)
{
    value = htobe32(value);
    __builtin_memcpy(out, &value, sizeof value);
}
static inline void nbd_put64(uint8_t *out, uint64_t value)
{
    value = htobe64(value);
    __builtin_memcpy(out, &value, sizeof value);
}

#endif
