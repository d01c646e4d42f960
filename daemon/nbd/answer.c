#include "daemon/nbd/answer.h"
#include "daemon/nbd/read.h"
#include "daemon/nbd/validate.h"

void answer_done(Output *output, NbdMode mode, const NbdRequest *wire)
{
    uint8_t *room = output_room(output, NBD_MAX_REPLY_HEADER);
    if (room != NULL)
        output_add(output, nbd_encode_done(mode, room, wire));
}

void answer_error(Output *output, NbdMode mode, const NbdRequest *wire, uint32_t error,
                  const char *text)
{
    uint8_t *room = output_room(output, NBD_MAX_REPLY_HEADER);
    if (room != NULL)
        output_add(output, nbd_encode_error(mode, room, wire, error, text));
}

void answer_errno(Output *output, NbdMode mode, const NbdRequest *wire, int errnum, uint64_t offset)
{
    uint32_t error = nbd_error_of_errno(errnum, wire);
    if (wire->type != NBD_CMD_READ) {
        answer_error(output, mode, wire, error, NULL);
        return;
    }
    uint8_t *room = output_room(output, NBD_MAX_REPLY_HEADER);
    if (room != NULL)
        output_add(output, nbd_encode_error_at(mode, room, wire, error, offset, NULL));
}

void answer_request(Output *output, const Request *request)
{
    NbdMode mode = request->session->mode;
    if (request->result < 0) {
        answer_errno(output, mode, &request->wire, -request->result, request->failed_at);
    } else if (request->kind == OP_READ) {
        read_answer(output, request);
    } else if (request->kind == OP_STATUS) {
        for (const StatusChunk *chunk = request->chunks; chunk != NULL; chunk = chunk->next) {
            if (chunk->runs.count > 0)
                answer_bitmap(output, mode, chunk);
            else
                output_send(output, chunk->bytes, chunk->length);
        }
    } else {
        answer_done(output, mode, &request->wire);
    }
}
