/* One loop: do what has been received, answer what is done, send, wait.
 *
 * What will not block is done here and now. The rest goes to the engine as a Request with memory of
 * its own; its bounds are the number and the bytes in flight. Where they are reached while
 * something is in flight the loop takes no more from the client until something is done (STALLED).
 * Where the pool gives nothing although nothing of this client is in flight, the request is done
 * here, blocking, slice by slice: so no connection ever waits for another one's memory.
 *
 * A client with one request at a time has it done here, too, blocking or not (submit.c). */
#include "daemon/nbd/transmission.h"
#include "daemon/nbd/transmission_state.h"
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

/* From here on a payload is received together with the next header alone, so that the payload after
 * it need not be moved. */
#define PAYLOAD_LARGE (32u << 10)

/* The header at the front of the input. False: it is none. */
static bool decode(const Transmission *t, NbdRequest *ret_request)
{
    if (!nbd_decode_request(t->session->mode, input_data(&t->input), ret_request))
        return false;
    if (t->session->bare_writes && ret_request->type == NBD_CMD_WRITE)
        ret_request->flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    return true;
}

static Progress take_request(Transmission *t)
{
    size_t header = nbd_request_header(t->session->mode);
    NbdRequest wire;
    if (input_available(&t->input) < header)
        return HUNGRY;
    if (!decode(t, &wire)) {
        t->closing = true;
        return TAKEN;
    }
    t->front = header;
    Progress progress = begin_request(t, &wire);
    if (progress == TAKEN) {
        input_consume(&t->input, t->front);
        t->taken++;
        hold_next(t);
    }
    t->front = 0;
    return progress;
}

static Progress work(Transmission *t)
{
    Progress progress = TAKEN;
    while (progress == TAKEN && !t->closing && !t->output.broken)
        progress = t->incoming.kind != INCOMING_NONE ? payload_take(t) : take_request(t);
    return progress;
}

/* --- waiting --- */

/* How much to receive into the buffer: all there is, unless a large payload is on its way. */
static size_t appetite(const Transmission *t)
{
    size_t header = nbd_request_header(t->session->mode);
    size_t available = input_available(&t->input);
    NbdRequest wire;
    if (t->incoming.kind == INCOMING_BLOCK)
        return t->incoming.left >= PAYLOAD_LARGE ? header : SIZE_MAX;
    if (t->incoming.kind != INCOMING_NONE || available < header || !decode(t, &wire))
        return SIZE_MAX;
    uint64_t missing = header + nbd_request_payload(t->session->mode, &wire) - available;
    return missing >= PAYLOAD_LARGE ? (size_t)missing + header : SIZE_MAX;
}

/* 0, or a negative errno; -EAGAIN: nothing has come. */
static int receive_some(Transmission *t, bool wait)
{
    Incoming *incoming = &t->incoming;
    struct iovec first = {0};
    size_t in_first = 0;
    if (incoming->kind == INCOMING_BLOCK) {
        first.iov_base = (uint8_t *)incoming->block + incoming->taken;
        first.iov_len = (size_t)incoming->left;
    }
    int result = input_receive(&t->input, first, appetite(t), wait, &in_first);
    incoming->taken += in_first;
    incoming->left -= in_first;
    return result;
}

/* False: nothing more will come. */
static bool receive(Transmission *t)
{
    int result = -EAGAIN;
    gint64 now = g_get_monotonic_time();
    GatherWay way = gather_before_wait(&t->gather, t->taken, now);
    if (way == GATHER_SLEEP)
        gather_sleep(t->gather.pause);
    bool alone = t->taken <= 1 && t->incoming.kind == INCOMING_NONE;
    if (way == GATHER_AWAKE ? busy_poll_begin_at_once(&t->poll, now)
                            : busy_poll_begin(&t->poll, alone, now)) {
        do
            result = receive_some(t, false);
        while (result == -EAGAIN && busy_poll_again(&t->poll));
        busy_poll_end(&t->poll);
    }
    if (result == -EAGAIN)
        result = receive_some(t, true);
    if (result == -EAGAIN) {
        /* Idle for a while: what it holds is of use to others. */
        gather_idle(&t->gather);
        engine_lane_clear(&t->lane);
        output_release(&t->output);
        input_release(&t->input);
        struct pollfd fd = {.fd = t->stream->fd, .events = POLLIN};
        poll(&fd, 1, -1);
    }
    t->now = g_get_monotonic_time();
    t->taken = 0;
    busy_poll_learn(&t->poll, t->now);
    return result == 0 || result == -EAGAIN;
}

/* What can be received without waiting. False: nothing more will come. */
static bool receive_more(Transmission *t)
{
    int result = receive_some(t, false);
    t->now = g_get_monotonic_time();
    return result == 0 || result == -EAGAIN;
}

/* Waits until something in flight is done, or (hungry) something can be received. */
static bool wait_for_work(Transmission *t, bool hungry)
{
    Request *done = done_queue_take(&t->done, true);
    if (done != NULL) {
        submit_collect(t, done);
        return true;
    }
    if (hungry && stream_may_have_more(t->stream)) {
        /* A client that has always more to say must not keep its writes from being done with. */
        engine_lane_reap(&t->lane);
        return receive_more(t);
    }
    struct pollfd fds[2] = {
        {.fd = t->done.wake_fd, .events = POLLIN},
        {.fd = hungry ? t->stream->fd : -1, .events = POLLIN},
    };
    gather_away(&t->gather);
    engine_lane_poll(&t->lane, fds, 2, -1);
    if (fds[0].revents != 0) {
        eventfd_t ignored;
        eventfd_read(t->done.wake_fd, &ignored);
    }
    submit_collect(t, done_queue_take(&t->done, false));
    return fds[1].revents == 0 || receive_more(t);
}

void nbd_transmit(Stream *stream, Client *client, const NbdSession *session, PoolAccount *account,
                  int wake_fd, const _Atomic int *stop)
{
    const Limits *limits = client_limits(client);
    bool direct = disk_backend(session->view.disk)->cache == CACHE_DIRECT;
    Transmission t = {
        .session = session,
        .disk = session->view.disk,
        .stream = stream,
        .account = account,
        .engine = client_engine(client),
        .stats = client_stats(client),
        .stop = stop,
        .max_requests = limits->client_requests,
        .direct = direct,
        .now = g_get_monotonic_time(),
    };
    busy_poll_init(&t.poll, direct ? 0 : (gint64)limits->busy_poll_microseconds);
    engine_lane_init(&t.lane, t.engine);
    stream->lane = &t.lane;
    gather_init(&t.gather, (gint64)limits->gather_microseconds);
    input_init(&t.input, stream, account);
    output_init(&t.output, stream, account);
    done_queue_init(&t.done, wake_fd);
    hold_init(&t.hold, client, wake_fd);

    while (!t.closing) {
        Progress progress = work(&t);
        Request *done = t.in_flight > 0 ? done_queue_take(&t.done, false) : NULL;
        if (done != NULL || t.output.used > 0)
            engine_lane_push(&t.lane); /* the disk need not wait for what is sent now */
        submit_collect(&t, done);
        output_flush(&t.output, false);
        int stopping = atomic_load(stop);
        /* What has been received is done all the same, unless it is to end at once. */
        if (t.output.broken || stopping == NBD_STOP_HARD ||
            (stopping == NBD_STOP_DRAIN && progress == HUNGRY))
            break;
        if (t.closing || (progress == STALLED && t.in_flight == 0))
            continue;
        bool more = progress == HELD  ? hold_wait(&t)
                    : t.in_flight > 0 ? wait_for_work(&t, progress == HUNGRY)
                                      : receive(&t);
        t.closing |= !more;
    }

    gather_clear(&t.gather);
    hold_leave(&t);
    payload_drop(&t);
    while (t.in_flight > 0) {
        wait_for_work(&t, false);
        output_flush(&t.output, false);
    }
    output_flush(&t.output, false);
    stream->lane = NULL;
    engine_lane_clear(&t.lane);
    input_clear(&t.input);
    output_clear(&t.output);
    done_queue_clear(&t.done);
}
