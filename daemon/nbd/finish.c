/* Answers, and what is counted of them: only this thread writes the counters. */
#include "daemon/nbd/answer.h"
#include "daemon/nbd/transmission_state.h"

static void bump(_Atomic uint64_t *counter, uint64_t by)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + by, memory_order_relaxed);
}

OpKind finish_kind(uint16_t type)
{
    static const OpKind kinds[] = {
        [NBD_CMD_READ] = OP_READ,           [NBD_CMD_WRITE] = OP_WRITE,
        [NBD_CMD_FLUSH] = OP_FLUSH,         [NBD_CMD_TRIM] = OP_TRIM,
        [NBD_CMD_WRITE_ZEROES] = OP_ZERO,   [NBD_CMD_CACHE] = OP_CACHE,
        [NBD_CMD_BLOCK_STATUS] = OP_STATUS,
    };
    return type < G_N_ELEMENTS(kinds) && type != NBD_CMD_DISC ? kinds[type] : OP_COUNT;
}

void finish_count(Transmission *t, const NbdRequest *wire, gint64 started, bool good)
{
    OpKind kind = finish_kind(wire->type);
    t->now = g_get_monotonic_time();
    if (kind == OP_COUNT)
        return;
    uint64_t microseconds = (uint64_t)MAX(t->now - started, 1);
    unsigned bucket = MIN(63 - (unsigned)__builtin_clzll(microseconds), LATENCY_BUCKETS - 1);
    bump(&t->stats->requests[kind], 1);
    bump(&t->stats->latency[kind][bucket], 1);
    if (good)
        bump(&t->stats->bytes[kind], kind == OP_FLUSH ? 0 : wire->length);
    else
        bump(&t->stats->errors[kind], 1);
}

void finish_done(Transmission *t, const NbdRequest *wire, gint64 started)
{
    answer_done(&t->output, t->session->mode, wire);
    finish_count(t, wire, started, true);
}

void finish_error(Transmission *t, const NbdRequest *wire, gint64 started, uint32_t error,
                  const char *text)
{
    answer_error(&t->output, t->session->mode, wire, error, text);
    finish_count(t, wire, started, false);
}

void finish_result(Transmission *t, const NbdRequest *wire, gint64 started, int result)
{
    if (result == 0) {
        finish_done(t, wire, started);
    } else {
        answer_errno(&t->output, t->session->mode, wire, -result, wire->offset);
        finish_count(t, wire, started, false);
    }
}

void finish_request(Transmission *t, Request *request)
{
    answer_request(&t->output, request);
    finish_count(t, &request->wire, request->started, request->result == 0);
    request_free(request);
}
