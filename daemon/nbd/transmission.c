/* One loop: do what has been received, answer what is done, send, wait.
 *
 * What will not block is done here and now. The rest goes to the engine as a Request with memory of
 * its own; its bounds are the number and the bytes in flight. Where they are reached while
 * something is in flight the loop takes no more from the client until something is done (STALLED).
 * Where the pool gives nothing although nothing of this client is in flight, the request is done
 * here, blocking, slice by slice: so no connection ever waits for another one's memory. */
#include "daemon/nbd/transmission.h"
#include "daemon/nbd/answer.h"
#include "daemon/nbd/input.h"
#include "daemon/nbd/output.h"
#include "daemon/nbd/read.h"
#include "daemon/nbd/validate.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

/* A block status of at most this much is done here. */
#define STATUS_HERE (1u << 20)
/* From here on a payload is received together with the next header alone, so that the payload after
 * it need not be moved. */
#define PAYLOAD_LARGE (32u << 10)

/* A request whose payload is on its way. */
typedef enum {
    INCOMING_NONE,
    INCOMING_BLOCK,   /* into a block of its own */
    INCOMING_STREAM,  /* onto the disk, as it comes: the pool is empty */
    INCOMING_DISCARD, /* a refused one: read away, then answered */
} IncomingKind;

typedef struct {
    IncomingKind kind;
    NbdRequest wire;
    uint64_t left, taken; /* bytes of the payload */
    void *block;
    size_t block_size;
    uint32_t error; /* STREAM: of the first write that failed; DISCARD */
    const char *text;
    gint64 started;
} Incoming;

typedef struct {
    const NbdSession *session;
    Disk *disk;
    Stream *stream;
    PoolAccount *account;
    Engine *engine;
    IoStats *stats;
    const _Atomic int *stop;
    uint64_t max_requests;
    bool direct; /* the page cache is not used: everything blocks */

    Input input;
    Output output;
    Incoming incoming;
    DoneQueue done;
    unsigned in_flight;
    gint64 now;   /* as of the last thing that was done */
    bool closing; /* takes no more requests */
} Transmission;

/* What became of an attempt to go on with the input. */
typedef enum {
    TAKEN,   /* go on */
    HUNGRY,  /* more must be received first */
    STALLED, /* something in flight must be done first */
} Progress;

/* --- counters: only this thread writes them --- */

static void bump(_Atomic uint64_t *counter, uint64_t by)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + by, memory_order_relaxed);
}

static OpKind op_kind(uint16_t type)
{
    static const OpKind kinds[] = {
        [NBD_CMD_READ] = OP_READ,           [NBD_CMD_WRITE] = OP_WRITE,
        [NBD_CMD_FLUSH] = OP_FLUSH,         [NBD_CMD_TRIM] = OP_TRIM,
        [NBD_CMD_WRITE_ZEROES] = OP_ZERO,   [NBD_CMD_CACHE] = OP_CACHE,
        [NBD_CMD_BLOCK_STATUS] = OP_STATUS,
    };
    return type < G_N_ELEMENTS(kinds) && type != NBD_CMD_DISC ? kinds[type] : OP_COUNT;
}

/* A request was answered. Moves `now` on. */
static void count(Transmission *t, const NbdRequest *wire, gint64 started, bool good)
{
    OpKind kind = op_kind(wire->type);
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

/* --- answers --- */

static void finish_done(Transmission *t, const NbdRequest *wire, gint64 started)
{
    answer_done(&t->output, t->session->mode, wire);
    count(t, wire, started, true);
}

static void finish_error(Transmission *t, const NbdRequest *wire, gint64 started, uint32_t error,
                         const char *text)
{
    answer_error(&t->output, t->session->mode, wire, error, text);
    count(t, wire, started, false);
}

/* result: of the disk, 0 or a negative errno. */
static void finish_result(Transmission *t, const NbdRequest *wire, gint64 started, int result)
{
    if (result == 0) {
        finish_done(t, wire, started);
    } else {
        answer_errno(&t->output, t->session->mode, wire, -result, wire->offset);
        count(t, wire, started, false);
    }
}

/* --- requests for the engine --- */

static bool is_full(const Transmission *t)
{
    return t->in_flight >= t->max_requests;
}

static Request *request_new(Transmission *t, const NbdRequest *wire, gint64 started)
{
    Request *request = g_new0(Request, 1);
    request->wire = *wire;
    request->kind = op_kind(wire->type);
    request->started = started;
    request->session = t->session;
    request->engine = t->engine;
    request->account = t->account;
    request->queue = &t->done;
    request->stop = t->stop;
    request->failed_at = wire->offset;
    return request;
}

static void submit(Transmission *t, Request *request)
{
    t->in_flight++;
    atomic_store_explicit(&t->stats->in_flight, t->in_flight, memory_order_relaxed);
    request_submit(request);
}

static void finish_request(Transmission *t, Request *request)
{
    answer_request(&t->output, request);
    count(t, &request->wire, request->started, request->result == 0);
    request_free(request);
}

static void collect(Transmission *t, Request *list)
{
    while (list != NULL) {
        Request *request = list;
        list = request->next;
        t->in_flight--;
        finish_request(t, request);
    }
    atomic_store_explicit(&t->stats->in_flight, t->in_flight, memory_order_relaxed);
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
        count(t, wire, started, result == 0);
        return TAKEN;
    }

    if (is_full(t))
        return STALLED;
    size_t size;
    void *block = pool_take(t->account, (size_t)wire->length, false, &size);
    if (block == NULL) {
        if (t->in_flight > 0)
            return STALLED;
        result = read_here(&t->output, t->session, wire, &plan, true);
        count(t, wire, started, result == 0);
        return TAKEN;
    }
    Request *request = request_new(t, wire, started);
    request->block = block;
    request->block_size = size;
    request->plan = plan;
    submit(t, request);
    return TAKEN;
}

/* --- WRITE --- */

static void submit_write(Transmission *t, const NbdRequest *wire, void *block, size_t block_size,
                         gint64 started)
{
    Request *request = request_new(t, wire, started);
    request->block = block;
    request->block_size = block_size;
    submit(t, request);
}

/* All of the payload is in the buffer, and may be written without waiting. */
static Progress write_here(Transmission *t, const NbdRequest *wire, const uint8_t *payload)
{
    gint64 started = t->now;
    size_t length = (size_t)wire->length;
    int result = disk_pwrite(t->disk, payload, length, wire->offset, IO_NOWAIT);
    if (result == -EAGAIN) {
        if (is_full(t))
            return STALLED;
        size_t size;
        void *block = pool_take(t->account, length, false, &size);
        if (block != NULL) {
            memcpy(block, payload, length);
            submit_write(t, wire, block, size, started);
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
static Progress begin_write(Transmission *t, const NbdRequest *wire, size_t *ret_consumed)
{
    size_t header = nbd_request_header(t->session->mode);
    bool here = !t->direct && !(wire->flags & NBD_CMD_FLAG_FUA);

    if (here && input_reserve(&t->input, header + (size_t)wire->length)) {
        if (input_available(&t->input) < header + wire->length)
            return HUNGRY;
        *ret_consumed = header + (size_t)wire->length;
        return write_here(t, wire, input_data(&t->input) + header);
    }
    if (is_full(t))
        return STALLED;
    Incoming incoming = {.wire = *wire, .left = wire->length, .started = t->now};
    incoming.block = pool_take(t->account, (size_t)wire->length, false, &incoming.block_size);
    incoming.kind = incoming.block ? INCOMING_BLOCK : INCOMING_STREAM;
    if (incoming.block == NULL && t->in_flight > 0)
        return STALLED;
    t->incoming = incoming;
    return TAKEN;
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
    *ret_error =
        nbd_validate_status(t->session, disk_size(t->disk), wire->offset, length, ret_text);
    if (*ret_error != NBD_SUCCESS)
        return NULL;
    Request *request = request_new(t, wire, t->now);
    request->status_length = length;
    request->status_ids = g_steal_pointer(&wanted);
    request->status_id_count = ids;
    return request;
}

static Progress begin_status(Transmission *t, const NbdRequest *wire, size_t *ret_consumed)
{
    size_t header = nbd_request_header(t->session->mode);
    uint64_t payload = nbd_request_payload(t->session->mode, wire);
    Request *request;

    if (is_full(t))
        return STALLED;
    if (payload > 0) {
        uint32_t error = NBD_EINVAL;
        const char *text = "more ids than there are contexts";
        request = NULL;
        if (payload > 8 + 4 * t->session->contexts.count ||
            !input_reserve(&t->input, header + (size_t)payload)) {
            t->incoming = (Incoming){
                .kind = INCOMING_DISCARD,
                .wire = *wire,
                .left = payload,
                .error = error,
                .text = text,
                .started = t->now,
            };
            return TAKEN;
        }
        if (input_available(&t->input) < header + payload)
            return HUNGRY;
        *ret_consumed = header + (size_t)payload;
        request = status_of_payload(t, wire, input_data(&t->input) + header, &error, &text);
        if (request == NULL) {
            finish_error(t, wire, t->now, error, text);
            return TAKEN;
        }
    } else {
        request = request_new(t, wire, t->now);
        request->status_length = wire->length;
    }
    if (request->status_length <= STATUS_HERE || (wire->flags & NBD_CMD_FLAG_REQ_ONE)) {
        request_run(request);
        finish_request(t, request);
    } else {
        submit(t, request);
    }
    return TAKEN;
}

/* --- taking requests from the input --- */

static void refuse(Transmission *t, const NbdRequest *wire, uint32_t error, const char *text)
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

/* A request whose header has come. *ret_consumed: what of the input it has taken, its header
 * unless set. */
static Progress begin(Transmission *t, const NbdRequest *wire, size_t *ret_consumed)
{
    NbdMode mode = t->session->mode;
    const char *text = NULL;

    if (wire->type == NBD_CMD_DISC || nbd_payload_is_hostile(mode, wire)) {
        t->closing = true;
        return TAKEN;
    }
    uint64_t size = MIN(t->session->view.size, disk_size(t->disk));
    uint32_t error = nbd_validate(t->session, size, wire, &text);
    if (error != NBD_SUCCESS) {
        refuse(t, wire, error, text);
        return TAKEN;
    }
    if (wire->length == 0 && wire->type != NBD_CMD_FLUSH && wire->type != NBD_CMD_BLOCK_STATUS) {
        /* Nothing to do, and that has been done. "NBD_CMD_READ": a chunk has a byte or more. */
        finish_done(t, wire, t->now);
        return TAKEN;
    }
    switch (wire->type) {
    case NBD_CMD_READ:
        return begin_read(t, wire);
    case NBD_CMD_WRITE:
        return begin_write(t, wire, ret_consumed);
    case NBD_CMD_BLOCK_STATUS:
        return begin_status(t, wire, ret_consumed);
    default: /* FLUSH, TRIM, CACHE, WRITE_ZEROES: nbd_validate knows no other */
        if (is_full(t))
            return STALLED;
        submit(t, request_new(t, wire, t->now));
        return TAKEN;
    }
}

static void finish_incoming(Transmission *t)
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

/* Takes what there is of the payload on its way. */
static Progress take_payload(Transmission *t)
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
    finish_incoming(t);
    return TAKEN;
}

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
    size_t consumed = header;
    Progress progress = begin(t, &wire, &consumed);
    if (progress == TAKEN)
        input_consume(&t->input, consumed);
    return progress;
}

static Progress work(Transmission *t)
{
    Progress progress = TAKEN;
    while (progress == TAKEN && !t->closing && !t->output.broken)
        progress = t->incoming.kind != INCOMING_NONE ? take_payload(t) : take_request(t);
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

/* False: nothing more will come. */
static bool receive(Transmission *t, bool wait)
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
    if (result == -EAGAIN && wait) {
        /* Idle for a while: what it holds is of use to others. */
        output_release(&t->output);
        input_release(&t->input);
        struct pollfd fd = {.fd = t->stream->fd, .events = POLLIN};
        poll(&fd, 1, -1);
    }
    t->now = g_get_monotonic_time();
    return result == 0 || result == -EAGAIN;
}

/* Waits until something in flight is done, or (hungry) something can be received. */
static bool wait_for_work(Transmission *t, bool hungry)
{
    Request *done = done_queue_take(&t->done, true);
    if (done != NULL) {
        collect(t, done);
        return true;
    }
    if (hungry && stream_may_have_more(t->stream))
        return receive(t, false);
    struct pollfd fds[2] = {
        {.fd = t->done.wake_fd, .events = POLLIN},
        {.fd = hungry ? t->stream->fd : -1, .events = POLLIN},
    };
    poll(fds, 2, -1);
    if (fds[0].revents != 0) {
        eventfd_t ignored;
        eventfd_read(t->done.wake_fd, &ignored);
    }
    collect(t, done_queue_take(&t->done, false));
    return fds[1].revents == 0 || receive(t, false);
}

static void drop_incoming(Transmission *t)
{
    pool_give(t->account, t->incoming.block, t->incoming.block_size);
    t->incoming = (Incoming){.kind = INCOMING_NONE};
}

void nbd_transmit(Stream *stream, Client *client, const NbdSession *session, PoolAccount *account,
                  int wake_fd, const _Atomic int *stop)
{
    const Limits *limits = client_limits(client);
    Transmission t = {
        .session = session,
        .disk = session->view.disk,
        .stream = stream,
        .account = account,
        .engine = client_engine(client),
        .stats = client_stats(client),
        .stop = stop,
        .max_requests = limits->client_requests,
        .direct = disk_backend(session->view.disk)->cache == CACHE_DIRECT,
        .now = g_get_monotonic_time(),
    };
    input_init(&t.input, stream, account);
    output_init(&t.output, stream, account);
    done_queue_init(&t.done, wake_fd);

    while (!t.closing) {
        Progress progress = work(&t);
        if (t.in_flight > 0)
            collect(&t, done_queue_take(&t.done, false));
        output_flush(&t.output, false);
        int stopping = atomic_load(stop);
        /* What has been received is done all the same, unless it is to end at once. */
        if (t.output.broken || stopping == NBD_STOP_HARD ||
            (stopping == NBD_STOP_DRAIN && progress == HUNGRY))
            break;
        if (t.closing || (progress == STALLED && t.in_flight == 0))
            continue;
        bool more = t.in_flight > 0 ? wait_for_work(&t, progress == HUNGRY) : receive(&t, true);
        t.closing |= !more;
    }

    drop_incoming(&t);
    while (t.in_flight > 0) {
        wait_for_work(&t, false);
        output_flush(&t.output, false);
    }
    output_flush(&t.output, false);
    input_clear(&t.input);
    output_clear(&t.output);
    done_queue_clear(&t.done);
}
