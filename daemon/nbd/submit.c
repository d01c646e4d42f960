/* Requests that may block.
 *
 * The engine does them, so that they overlap. But to hand a request over and to be woken for it
 * takes as long as a fast disk: a client that waits for each answer before it asks
 * again has its request done right here, if the last of its kind was quick (nobody wants to
 * overtake it). Whether it is such a client is told by what is in flight, in the input and in the
 * output, and by what has come while a request was done here: who overlaps has the next ones done
 * by the engine.
 *
 * A disk that hangs holds up the thread here no longer than it would have to wait for the engine
 * anyway before the connection can end. */
#include "daemon/nbd/transmission_state.h"

/* Requests of a client that overlaps before one that is alone is tried here again. */
#define OVERLAPPING        256
#define QUICK_MICROSECONDS 1000
#define HERE_BYTES         (256u << 10)

Request *submit_new(Transmission *t, const NbdRequest *wire, gint64 started)
{
    Request *request = g_new0(Request, 1);
    request->wire = *wire;
    request->kind = finish_kind(wire->type);
    request->started = started;
    request->session = t->session;
    request->engine = t->engine;
    request->lane = &t->lane;
    request->account = t->account;
    request->queue = &t->done;
    request->stop = t->stop;
    request->failed_at = wire->offset;
    return request;
}

static bool belongs_here(const Transmission *t, const Request *request)
{
    return t->overlapping == 0 && t->in_flight == 0 && t->quick[request->kind] &&
           input_available(&t->input) == t->front && t->output.used == 0 &&
           request->kind != OP_CACHE &&
           (request->wire.length <= HERE_BYTES || request->kind == OP_STATUS);
}

static void show_in_flight(Transmission *t)
{
    atomic_store_explicit(&t->stats->in_flight, t->in_flight, memory_order_relaxed);
}

static void finish(Transmission *t, Request *request)
{
    OpKind kind = request->kind;
    gint64 started = request->started;
    t->in_flight--;
    finish_request(t, request);
    t->quick[kind] = t->now - started <= QUICK_MICROSECONDS;
}

void submit_request(Transmission *t, Request *request)
{
    bool here = belongs_here(t, request);
    t->in_flight++;
    show_in_flight(t);
    if (!here) {
        t->overlapping -= t->overlapping > 0;
        request_submit(request);
    } else if (request_run_if_admitted(request)) {
        /* Before the answer, which may bring the next one at once. */
        if (stream_is_readable(t->stream))
            t->overlapping = OVERLAPPING;
        finish(t, request);
        show_in_flight(t);
    }
}

void submit_write(Transmission *t, const NbdRequest *wire, void *block, size_t block_size,
                  uint64_t written, gint64 started)
{
    Request *request = submit_new(t, wire, started);
    request->block = block;
    request->block_size = block_size;
    request->written = written;
    submit_request(t, request);
}

void submit_collect(Transmission *t, Request *list)
{
    while (list != NULL) {
        Request *request = list;
        list = request->next;
        finish(t, request);
    }
    show_in_flight(t);
}
