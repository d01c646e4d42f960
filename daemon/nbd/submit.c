/* Requests that the engine does. */
#include "daemon/nbd/transmission_state.h"

Request *submit_new(Transmission *t, const NbdRequest *wire, gint64 started)
{
    Request *request = g_new0(Request, 1);
    request->wire = *wire;
    request->kind = finish_kind(wire->type);
    request->started = started;
    request->session = t->session;
    request->engine = t->engine;
    request->account = t->account;
    request->queue = &t->done;
    request->stop = t->stop;
    request->failed_at = wire->offset;
    return request;
}

void submit_request(Transmission *t, Request *request)
{
    t->in_flight++;
    atomic_store_explicit(&t->stats->in_flight, t->in_flight, memory_order_relaxed);
    request_submit(request);
}

void submit_write(Transmission *t, const NbdRequest *wire, void *block, size_t block_size,
                  gint64 started)
{
    Request *request = submit_new(t, wire, started);
    request->block = block;
    request->block_size = block_size;
    submit_request(t, request);
}

void submit_collect(Transmission *t, Request *list)
{
    while (list != NULL) {
        Request *request = list;
        list = request->next;
        t->in_flight--;
        finish_request(t, request);
    }
    atomic_store_explicit(&t->stats->in_flight, t->in_flight, memory_order_relaxed);
}
