/* What becomes of a request: done here and now where that does not block, else submitted. */
#include "daemon/nbd/read.h"
#include "daemon/nbd/transmission_state.h"
#include "daemon/nbd/validate.h"
#include <errno.h>
#include <string.h>

/* A block status of at most this much is done here. */
#define STATUS_HERE (1u << 20)

/* As far as both go: what the client was told of, and what there is. */
static uint64_t size_of(const Transmission *t)
{
    return MIN(t->session->view.size, disk_size(t->disk));
}

/* --- READ --- */

static Progress begin_read(Transmission *t, const NbdRequest *wire)
{
    gint64 started = t->now;
    ReadPlan plan;
    read_plan(t->session, wire, &plan);
    int result = -EAGAIN;
    if (!t->direct)
        result = read_here(&t->output, t->session, wire, &plan, false);
    if (result != -EAGAIN) {
        finish_count(t, wire, started, result == 0);
        return TAKEN;
    }

    if (transmission_is_full(t))
        return STALLED;
    size_t size;
    void *block = pool_take(t->account, (size_t)wire->length, false, &size);
    if (block == NULL) {
        if (t->in_flight > 0)
            return STALLED;
        result = read_here(&t->output, t->session, wire, &plan, true);
        finish_count(t, wire, started, result == 0);
        return TAKEN;
    }
    Request *request = submit_new(t, wire, started);
    request->block = block;
    request->block_size = size;
    request->plan = plan;
    submit_request(t, request);
    return TAKEN;
}

/* --- WRITE --- */

/* All of the payload is in the buffer, and may be written without waiting. */
static Progress write_here(Transmission *t, const NbdRequest *wire, const uint8_t *payload)
{
    gint64 started = t->now;
    size_t length = (size_t)wire->length;
    int result = disk_pwrite(t->disk, payload, length, wire->offset, IO_NOWAIT);
    if (result == -EAGAIN) {
        if (transmission_is_full(t))
            return STALLED;
        size_t size;
        void *block = pool_take(t->account, length, false, &size);
        if (block != NULL) {
            memcpy(block, payload, length);
            submit_write(t, wire, block, size, 0, started);
            return TAKEN;
        }
        if (t->in_flight > 0)
            return STALLED;
        result = disk_pwrite(t->disk, payload, length, wire->offset, 0);
    }
    finish_result(t, wire, started, result);
    return TAKEN;
}

/* The header is still in the buffer, with as much of the payload as has come. */
static Progress begin_write(Transmission *t, const NbdRequest *wire)
{
    size_t header = nbd_request_header(t->session->mode);
    bool here = !t->direct && !(wire->flags & NBD_CMD_FLAG_FUA);

    if (here && wire->length >= PAYLOAD_STREAMED &&
        input_available(&t->input) < header + wire->length)
        return payload_expect_stream(t, wire);
    if (here && input_reserve(&t->input, header + (size_t)wire->length)) {
        if (input_available(&t->input) < header + wire->length)
            return HUNGRY;
        t->front = header + (size_t)wire->length;
        return write_here(t, wire, input_data(&t->input) + header);
    }
    return payload_expect(t, wire);
}

/* --- BLOCK_STATUS --- */

/* "NBD_CMD_BLOCK_STATUS": a payload is the effect length and the ids that are wanted, each once and
 * known. NULL with *ret_error set, or a request. */
static Request *status_of_payload(Transmission *t, const NbdRequest *wire, const uint8_t *payload,
                                  uint32_t *ret_error, const char **ret_text)
{
    const MetaSelection *contexts = &t->session->contexts;
    size_t ids = wire->length >= 8 ? (size_t)(wire->length - 8) / 4 : 0;
    g_autofree uint8_t *seen = g_malloc0(contexts->count + 1);
    g_autofree uint32_t *wanted = g_new(uint32_t, MIN(ids, contexts->count) + 1);

    *ret_error = NBD_EINVAL;
    *ret_text = "the payload is not a length and the ids of contexts";
    if (ids == 0 || ids > contexts->count || wire->length != 8 + 4 * ids)
        return NULL;
    for (size_t i = 0; i < ids; i++) {
        wanted[i] = nbd_get32(payload + 8 + 4 * i);
        if (wanted[i] >= contexts->count || seen[wanted[i]]++)
            return NULL;
    }
    uint64_t length = nbd_get64(payload);
    *ret_error = nbd_validate_status(t->session, size_of(t), wire->offset, length, ret_text);
    if (*ret_error != NBD_SUCCESS)
        return NULL;
    Request *request = submit_new(t, wire, t->now);
    request->status_length = length;
    request->status_ids = g_steal_pointer(&wanted);
    request->status_id_count = ids;
    return request;
}

/* Room for the shortest answer. One request at a time has it however short memory is. */
static bool reserve_status(Transmission *t, Request *request)
{
    size_t wanted = request->status_ids ? request->status_id_count : t->session->contexts.count;
    request->block =
        pool_take(t->account, wanted * STATUS_LEAST, t->in_flight == 0, &request->block_size);
    return request->block != NULL;
}

static Progress begin_status(Transmission *t, const NbdRequest *wire)
{
    size_t header = nbd_request_header(t->session->mode);
    uint64_t payload = nbd_request_payload(t->session->mode, wire);
    Request *request;

    if (transmission_is_full(t))
        return STALLED;
    /* It may be empty, too: that is no length and no ids. */
    if (wire->flags & NBD_CMD_FLAG_PAYLOAD_LEN) {
        uint32_t error = NBD_EINVAL;
        const char *text = "more ids than there are contexts";
        request = NULL;
        if (payload > 8 + 4 * t->session->contexts.count ||
            !input_reserve(&t->input, header + (size_t)payload)) {
            payload_refuse(t, wire, error, text);
            return TAKEN;
        }
        if (input_available(&t->input) < header + payload)
            return HUNGRY;
        t->front = header + (size_t)payload;
        request = status_of_payload(t, wire, input_data(&t->input) + header, &error, &text);
        if (request == NULL) {
            finish_error(t, wire, t->now, error, text);
            return TAKEN;
        }
    } else {
        request = submit_new(t, wire, t->now);
        request->status_length = wire->length;
    }
    if (!reserve_status(t, request)) {
        request_free(request);
        if (t->in_flight > 0)
            return STALLED;
        finish_result(t, wire, t->now, -ENOMEM);
        return TAKEN;
    }
    if (request->status_length <= STATUS_HERE || (wire->flags & NBD_CMD_FLAG_REQ_ONE)) {
        request_run(request);
        finish_request(t, request);
    } else {
        submit_request(t, request);
    }
    return TAKEN;
}

/* --- all of them --- */

Progress begin_request(Transmission *t, const NbdRequest *wire)
{
    NbdMode mode = t->session->mode;
    const char *text = NULL;

    if (wire->type == NBD_CMD_DISC || nbd_payload_is_hostile(mode, wire)) {
        t->closing = true;
        return TAKEN;
    }
    uint32_t error = nbd_validate(t->session, size_of(t), wire, &text);
    if (error != NBD_SUCCESS) {
        payload_refuse(t, wire, error, text);
        return TAKEN;
    }
    if (wire->length == 0 && wire->type != NBD_CMD_FLUSH && wire->type != NBD_CMD_BLOCK_STATUS) {
        /* Nothing to do, and that has been done. "NBD_CMD_READ": a chunk has a byte or more. */
        finish_done(t, wire, t->now);
        return TAKEN;
    }
    if (hold_back(t, wire))
        return HELD;
    switch (wire->type) {
    case NBD_CMD_READ:
        return begin_read(t, wire);
    case NBD_CMD_WRITE:
        return begin_write(t, wire);
    case NBD_CMD_BLOCK_STATUS:
        return begin_status(t, wire);
    default: /* FLUSH, TRIM, CACHE, WRITE_ZEROES: nbd_validate knows no other */
        if (transmission_is_full(t))
            return STALLED;
        submit_request(t, submit_new(t, wire, t->now));
        return TAKEN;
    }
}
