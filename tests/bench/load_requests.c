/* Reads and writes at a depth: what has been answered is replaced at once, many requests in one
 * send and many answers in one recv. Sending never waits while answers lie there, so neither side
 * can block the other. */
#include "load.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REQUEST_MAGIC UINT32_C(0x25609513)
#define SIMPLE_MAGIC  UINT32_C(0x67446698)
enum { COMMAND_READ = 0, COMMAND_WRITE = 1 };

typedef struct {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed)) Request;

typedef struct {
    uint32_t magic, error;
    uint64_t cookie;
} __attribute__((packed)) Reply;

typedef struct {
    const Options *options;
    int fd;
    uint64_t blocks, issued, touched, limit, random, deadline;
    uint32_t client, in_flight;
    uint64_t *sent_at; /* by cookie, which is a slot */
    uint32_t *free_slots, free_count;
    unsigned char *out, *in;
    size_t out_start, out_end, out_size, in_end, in_size;
    uint64_t skip; /* bytes of a read's answer still to come */
    Result *result;
} Run;

static uint64_t next_random(Run *run)
{
    run->random ^= run->random << 13;
    run->random ^= run->random >> 7;
    run->random ^= run->random << 17;
    return run->random;
}

/* Touch: an odd factor permutes the numbers below a power of two, so each stride is met once. */
static uint64_t touch_offset(Run *run)
{
    const Options *options = run->options;
    uint64_t strides = run->blocks * options->block / options->stride, mask = 1;
    while (mask < strides)
        mask <<= 1;
    uint64_t at;
    do {
        uint64_t number = options->first + run->touched++ * options->clients + run->client;
        at = (number * UINT64_C(0x9E3779B97F4A7C15)) & (mask - 1);
    } while (at >= strides);
    uint64_t within = options->stride / options->block;
    return at * options->stride + next_random(run) % within * options->block;
}

static uint64_t next_offset(Run *run)
{
    uint64_t block = run->options->block;
    switch (run->options->pattern) {
    case PATTERN_SEQUENTIAL: {
        uint64_t share = run->blocks / run->options->clients;
        return (run->client * share + run->issued % (share ? share : 1)) * block;
    }
    case PATTERN_TOUCH:
        return touch_offset(run);
    case PATTERN_RANDOM:
        break;
    }
    return next_random(run) % run->blocks * block;
}

static bool finished(const Run *run)
{
    return (run->limit && run->issued >= run->limit) ||
           (run->deadline && now_ns() >= run->deadline);
}

/* Queues one request; it is stamped when it is handed to the socket for the first time. */
static void queue(Run *run)
{
    const Options *options = run->options;
    size_t bytes = sizeof(Request) + (options->op == OP_WRITE ? options->block : 0);
    if (run->out_end + bytes > run->out_size) {
        memmove(run->out, run->out + run->out_start, run->out_end - run->out_start);
        run->out_end -= run->out_start;
        run->out_start = 0;
    }
    uint32_t slot = run->free_slots[--run->free_count];
    Request request = {htobe32(REQUEST_MAGIC),
                       0,
                       htobe16(options->op == OP_WRITE ? COMMAND_WRITE : COMMAND_READ),
                       htobe64(slot),
                       htobe64(next_offset(run)),
                       htobe32(options->block)};
    memcpy(run->out + run->out_end, &request, sizeof(request));
    run->out_end += bytes; /* the payload is whatever lies there */
    run->sent_at[slot] = now_ns();
    run->issued++;
    run->in_flight++;
}

static void take(Run *run, const Reply *reply)
{
    errno = 0;
    uint64_t slot = be64toh(reply->cookie);
    if (be32toh(reply->magic) != SIMPLE_MAGIC || slot >= run->options->depth)
        wire_die("that is no simple reply");
    if (reply->error)
        wire_die("a request failed");
    uint64_t now = now_ns();
    histogram_add(&run->result->latency, now - run->sent_at[slot]);
    if (run->options->interval) {
        uint64_t interval = (now - run->result->begun) / run->options->interval;
        if (interval < INTERVALS)
            run->result->intervals[interval]++;
    }
    run->free_slots[run->free_count++] = (uint32_t)slot;
    run->in_flight--;
    run->result->requests++;
    if (run->options->op == OP_READ)
        run->skip = run->options->block;
}

static void parse(Run *run)
{
    size_t at = 0;
    for (;;) {
        size_t have = run->in_end - at;
        if (run->skip) {
            size_t part = run->skip < have ? run->skip : have;
            run->skip -= part;
            at += part;
            if (run->skip)
                break;
        } else if (have >= sizeof(Reply)) {
            Reply reply;
            memcpy(&reply, run->in + at, sizeof(reply));
            at += sizeof(reply);
            take(run, &reply);
        } else {
            break;
        }
    }
    memmove(run->in, run->in + at, run->in_end - at);
    run->in_end -= at;
}

static void turn(Run *run)
{
    while (run->free_count && !finished(run))
        queue(run);
    if (run->out_start < run->out_end) {
        ssize_t sent = send(run->fd, run->out + run->out_start, run->out_end - run->out_start,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN)
            wire_die("send");
        run->out_start += sent > 0 ? (size_t)sent : 0;
    }
    if (run->out_start == run->out_end) {
        run->out_start = run->out_end = 0;
    } else {
        struct pollfd both = {.fd = run->fd, .events = POLLIN | POLLOUT};
        poll(&both, 1, -1);
        if (!(both.revents & POLLIN))
            return;
    }
    if (!run->in_flight)
        return;
    ssize_t got = recv(run->fd, run->in + run->in_end, run->in_size - run->in_end, 0);
    if (got <= 0)
        wire_die("receive");
    run->in_end += (size_t)got;
    parse(run);
}

void run_requests(const Options *options, int fd, uint64_t size, uint32_t number, Result *result)
{
    Run run = {.options = options,
               .fd = fd,
               .blocks = size / options->block,
               .client = number,
               .random = (number + 1) * UINT64_C(0x2545F4914F6CDD1D),
               .result = result};
    errno = 0;
    if (!run.blocks)
        wire_die("the export is smaller than a block");
    run.limit = options->count / options->clients;
    run.deadline = options->count ? 0 : now_ns() + (uint64_t)(options->seconds * 1e9);
    run.out_size = options->depth * (sizeof(Request) + (size_t)options->block);
    run.in_size = 256u << 10;
    run.out = malloc(run.out_size);
    run.in = malloc(run.in_size);
    run.sent_at = calloc(options->depth, sizeof(*run.sent_at));
    run.free_slots = calloc(options->depth, sizeof(*run.free_slots));
    if (!run.out || !run.in || !run.sent_at || !run.free_slots)
        wire_die("memory");
    for (size_t i = 0; i < run.out_size; i++)
        run.out[i] = (unsigned char)next_random(&run);
    for (uint32_t i = 0; i < options->depth; i++)
        run.free_slots[run.free_count++] = i;
    result->begun = now_ns();
    do {
        turn(&run);
    } while (run.in_flight || !finished(&run));
    free(run.out);
    free(run.in);
    free(run.sent_at);
    free(run.free_slots);
}
