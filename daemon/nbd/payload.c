/* Payloads on their way: of writes, and of requests that were refused.
 *
 * A large payload is written piece by piece, as it comes. A client on a Unix socket has no more
 * than 208 KiB on its way and sleeps until most of that has been received: it wakes up and sends
 * while a piece is written, and the piece is still in the processor's cache. (Who is gone in
 * the middle of a payload has written a part of it.) */
#include "daemon/nbd/transmission_state.h"
#include "daemon/nbd/validate.h"
#include <errno.h>
#include <string.h>

Progress payload_expect_stream(Transmission *t, const NbdRequest *wire)
{
    if (!input_reserve(&t->input, INPUT_LARGE))
        return payload_expect(t, wire);
    t->incoming = (Incoming){
        .kind = INCOMING_STREAM,
        .wire = *wire,
        .left = wire->length,
        .piece = PAYLOAD_STREAMED,
        .started = t->now,
    };
    return TAKEN;
}

Progress payload_expect(Transmission *t, const NbdRequest *wire)
{
    if (transmission_is_full(t))
        return STALLED;
    Incoming incoming = {.wire = *wire, .left = wire->length, .started = t->now};
    incoming.block = pool_take(t->account, (size_t)wire->length, false, &incoming.block_size);
    incoming.kind = incoming.block ? INCOMING_BLOCK : INCOMING_STREAM;
    incoming.may_wait = incoming.block == NULL;
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
        submit_write(t, &incoming.wire, incoming.block, incoming.block_size, incoming.written,
                     incoming.started);
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

/* How much of the n bytes that are here is written now. A piece ends at a block's end, so that no
 * block has to be read to be written in two parts; unless there is no room for more of it, as where
 * blocks are larger than the buffer, or memory has become scarce while the client paused. */
static size_t piece_of(const Transmission *t, size_t n)
{
    const Incoming *incoming = &t->incoming;
    uint64_t start = incoming->wire.offset + incoming->taken;
    uint64_t block = disk_backend(t->disk)->preferred_block;
    bool full = input_available(&t->input) == t->input.size;
    if (n == incoming->left || full || incoming->may_wait || incoming->error != NBD_SUCCESS)
        return n;
    if (n < incoming->piece || (start + n) % block >= n)
        return 0;
    return n - (size_t)((start + n) % block);
}

/* The disk would wait: what is left goes on as a block, or if there is no memory waits with it. */
static Progress leave_stream(Transmission *t)
{
    Incoming *incoming = &t->incoming;
    if (transmission_is_full(t))
        return STALLED;
    incoming->block =
        pool_take(t->account, (size_t)incoming->wire.length, false, &incoming->block_size);
    if (incoming->block == NULL && t->in_flight > 0)
        return STALLED;
    incoming->may_wait = incoming->block == NULL;
    incoming->kind = incoming->block ? INCOMING_BLOCK : INCOMING_STREAM;
    incoming->written = incoming->taken;
    return payload_take(t);
}

Progress payload_take(Transmission *t)
{
    Incoming *incoming = &t->incoming;
    size_t n = (size_t)MIN(incoming->left, input_available(&t->input));
    if (n > 0 && incoming->kind == INCOMING_BLOCK)
        memcpy((uint8_t *)incoming->block + incoming->taken, input_data(&t->input), n);
    if (n > 0 && incoming->kind == INCOMING_STREAM)
        n = piece_of(t, n);
    if (n > 0 && incoming->kind == INCOMING_STREAM && incoming->error == NBD_SUCCESS) {
        int result =
            disk_pwrite(t->disk, input_data(&t->input), n, incoming->wire.offset + incoming->taken,
                        incoming->may_wait ? 0 : IO_NOWAIT);
        if (result == -EAGAIN && !incoming->may_wait)
            return leave_stream(t);
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
