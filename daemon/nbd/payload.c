/* Payloads on their way: of writes, and of requests that were refused. */
#include "daemon/nbd/transmission_state.h"
#include "daemon/nbd/validate.h"
#include <string.h>

Progress payload_expect(Transmission *t, const NbdRequest *wire)
{
    if (transmission_is_full(t))
        return STALLED;
    Incoming incoming = {.wire = *wire, .left = wire->length, .started = t->now};
    incoming.block = pool_take(t->account, (size_t)wire->length, false, &incoming.block_size);
    incoming.kind = incoming.block ? INCOMING_BLOCK : INCOMING_STREAM;
    if (incoming.block == NULL && t->in_flight > 0)
        return STALLED;
    t->incoming = incoming;
    return TAKEN;
}

void payload_refuse(Transmission *t, const NbdRequest *wire, uint32_t error, const char *text)
{
    t->incoming = (Incoming){
        .kind = INCOMING_DISCARD,
        .wire = *wire,
        .left = nbd_request_payload(t->session->mode, wire),
        .error = error,
        .text = text,
        .started = t->now,
    };
}

static void arrived(Transmission *t)
{
    Incoming incoming = t->incoming;
    t->incoming = (Incoming){.kind = INCOMING_NONE};
    switch (incoming.kind) {
    case INCOMING_NONE:
        break;
    case INCOMING_BLOCK:
        submit_write(t, &incoming.wire, incoming.block, incoming.block_size, incoming.started);
        break;
    case INCOMING_STREAM:
        if (incoming.error == NBD_SUCCESS && (incoming.wire.flags & NBD_CMD_FLAG_FUA))
            incoming.error = nbd_error_of_errno(-disk_flush(t->disk), &incoming.wire);
        if (incoming.error == NBD_SUCCESS)
            finish_done(t, &incoming.wire, incoming.started);
        else
            finish_error(t, &incoming.wire, incoming.started, incoming.error, NULL);
        break;
    case INCOMING_DISCARD:
        finish_error(t, &incoming.wire, incoming.started, incoming.error, incoming.text);
        t->closing |= nbd_request_loses_track(t->session->mode, &incoming.wire);
        break;
    }
}

Progress payload_take(Transmission *t)
{
    Incoming *incoming = &t->incoming;
    size_t n = (size_t)MIN(incoming->left, input_available(&t->input));
    if (n > 0 && incoming->kind == INCOMING_BLOCK)
        memcpy((uint8_t *)incoming->block + incoming->taken, input_data(&t->input), n);
    if (n > 0 && incoming->kind == INCOMING_STREAM && incoming->error == NBD_SUCCESS) {
        int result = disk_pwrite(t->disk, input_data(&t->input), n,
                                 incoming->wire.offset + incoming->taken, 0);
        incoming->error = nbd_error_of_errno(-result, &incoming->wire);
    }
    input_consume(&t->input, n);
    incoming->taken += n;
    incoming->left -= n;
    if (incoming->left > 0)
        return HUNGRY;
    arrived(t);
    return TAKEN;
}

void payload_drop(Transmission *t)
{
    pool_give(t->account, t->incoming.block, t->incoming.block_size);
    t->incoming = (Incoming){.kind = INCOMING_NONE};
}
