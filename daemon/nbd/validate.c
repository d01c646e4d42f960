#include "daemon/nbd/validate.h"
#include <errno.h>

/* One row a command; "Command flags" and "Request types" say which flags belong where. FUA belongs
 * everywhere. */
typedef struct {
    uint16_t flags;
    bool changes;        /* refused on a read-only export */
    bool ranged;         /* offset and length are a range of the export */
    uint32_t beyond;     /* the error for a range past the end */
    uint64_t max_length; /* 0: no bound of its own */
} CommandRow;

static const CommandRow commands[] = {
    [NBD_CMD_READ] = {NBD_CMD_FLAG_DF, false, true, NBD_EINVAL, NBD_MAX_PAYLOAD},
    [NBD_CMD_WRITE] = {0, true, true, NBD_ENOSPC, NBD_MAX_PAYLOAD},
    [NBD_CMD_FLUSH] = {0, false, false, 0, 0},
    [NBD_CMD_TRIM] = {0, true, true, NBD_EINVAL, 0},
    [NBD_CMD_CACHE] = {0, false, true, NBD_EINVAL, 0},
    [NBD_CMD_WRITE_ZEROES] = {NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, true, NBD_ENOSPC,
                              0},
    [NBD_CMD_BLOCK_STATUS] = {NBD_CMD_FLAG_REQ_ONE, false, true, NBD_EINVAL, 0},
};

/* What the handshake allows of a command's flags. */
static uint16_t allowed_flags(const NbdSession *session, const NbdRequest *request)
{
    uint16_t flags = commands[request->type].flags | NBD_CMD_FLAG_FUA;
    if (session->mode == NBD_MODE_SIMPLE)
        flags &= (uint16_t)~NBD_CMD_FLAG_DF;
    if (session->mode == NBD_MODE_EXTENDED && request->type == NBD_CMD_WRITE)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    if ((session->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD) && request->type == NBD_CMD_BLOCK_STATUS)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    return flags;
}

/* The last, partial block of an export is reached with a length that ends with it. */
static bool is_aligned(const NbdSession *session, uint64_t size, uint64_t offset, uint64_t length)
{
    uint32_t mask = session->minimum_block - 1;
    return (offset & mask) == 0 && ((length & mask) == 0 || offset + length == size);
}

static bool is_inside(uint64_t size, uint64_t offset, uint64_t length)
{
    return length <= size && offset <= size - length;
}

uint32_t nbd_validate_status(const NbdSession *session, uint64_t size, uint64_t offset,
                             uint64_t length, const char **ret_text)
{
    if (session->contexts.count == 0) {
        *ret_text = "no metadata context was negotiated";
        return NBD_EINVAL;
    }
    if (length == 0) {
        *ret_text = "a block status needs a length";
        return NBD_EINVAL;
    }
    if (!is_inside(size, offset, length)) {
        *ret_text = "the range goes beyond the end of the export";
        return NBD_EINVAL;
    }
    if (!is_aligned(session, size, offset, length)) {
        *ret_text = "the range is not aligned to the minimum block size";
        return NBD_EINVAL;
    }
    return NBD_SUCCESS;
}

uint32_t nbd_validate(const NbdSession *session, uint64_t size, const NbdRequest *request,
                      const char **ret_text)
{
    if (request->type >= G_N_ELEMENTS(commands) || request->type == NBD_CMD_DISC) {
        *ret_text = "the command is not known";
        return NBD_EINVAL;
    }
    const CommandRow *row = &commands[request->type];
    bool payload_status =
        request->type == NBD_CMD_BLOCK_STATUS && (request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0;

    if (row->changes && session->view.read_only) {
        *ret_text = "the export is read-only";
        return NBD_EPERM;
    }
    if (nbd_request_loses_track(session->mode, request)) {
        *ret_text = "a write without a payload";
        return NBD_EINVAL;
    }
    if ((request->flags & ~allowed_flags(session, request)) != 0) {
        *ret_text = "a flag that this command does not have";
        return NBD_EINVAL;
    }
    if (payload_status || !row->ranged)
        return NBD_SUCCESS;
    if (request->type == NBD_CMD_BLOCK_STATUS)
        return nbd_validate_status(session, size, request->offset, request->length, ret_text);
    if (!is_inside(size, request->offset, request->length)) {
        *ret_text = "the range goes beyond the end of the export";
        return row->beyond;
    }
    if (row->max_length != 0 && request->length > row->max_length) {
        *ret_text = "more than the maximum payload of 32 MiB";
        /* EOVERFLOW belongs to READ, and to it only where DF is. */
        return request->flags & NBD_CMD_FLAG_DF ? NBD_EOVERFLOW : NBD_EINVAL;
    }
    if (!is_aligned(session, size, request->offset, request->length)) {
        *ret_text = "the range is not aligned to the minimum block size";
        return NBD_EINVAL;
    }
    return NBD_SUCCESS;
}

bool nbd_payload_is_hostile(NbdMode mode, const NbdRequest *request)
{
    uint64_t bound = mode == NBD_MODE_EXTENDED ? NBD_MAX_PAYLOAD : NBD_MAX_DRAIN;
    return nbd_request_payload(mode, request) > bound;
}

bool nbd_request_loses_track(NbdMode mode, const NbdRequest *request)
{
    return mode == NBD_MODE_EXTENDED && request->type == NBD_CMD_WRITE &&
           (request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) == 0;
}

uint32_t nbd_error_of_errno(int errnum, const NbdRequest *request)
{
    switch (errnum) {
    case 0:
        return NBD_SUCCESS;
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case ESHUTDOWN:
    case ECANCELED:
        return NBD_ESHUTDOWN;
    case ENOTSUP:
        /* "Error values": ENOTSUP answers a fast zero and nothing else. */
        if (request->type == NBD_CMD_WRITE_ZEROES && (request->flags & NBD_CMD_FLAG_FAST_ZERO))
            return NBD_ENOTSUP;
        return NBD_EIO;
    default:
        return NBD_EIO;
    }
}
