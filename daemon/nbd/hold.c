/* Requests that the limits of the export hold back. A connection that waits takes nothing more from
 * its client, so it holds up that one alone; what it has in flight is answered meanwhile.
 *
 * Nobody is let through before the first of those who wait. So whoever has to wait for its own
 * client to read gives up its place, and queues anew once that has: a client that does not read its
 * answers costs the others nothing, and one that reads them late loses a turn.
 *
 * A TCP peer that has closed looks like one that has only shut down its own direction and waits for
 * its answers, until it is sent something: then it resets the connection. So soon after the end of
 * what it sends is seen one request goes ahead of its turn, and its answer tells. Only one, and
 * paid for, or closing one direction would be a way around the limits. */
#include "daemon/nbd/transmission_state.h"
#include <poll.h>
#include <sys/eventfd.h>

/* From the end of what a client sends until a request of it goes ahead. */
#define PROBE_AFTER (G_USEC_PER_SEC / 4)

void hold_init(Hold *hold, Client *client, int wake_fd)
{
    Throttle *throttle = client_throttle(client);
    *hold = (Hold){
        .throttle = throttle,
        .limited = throttle_switch(throttle),
        .place = {.wake_fd = wake_fd},
        .probe_at = G_MAXINT64,
    };
}

/* Bytes that count; zeroes and trims move none. A prefetch may be as long as the disk, and counts
 * only as far as it is done: what it does not move must not be everybody's debt. */
static uint64_t moved(const Transmission *t, const NbdRequest *wire)
{
    switch (wire->type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
        return wire->length;
    case NBD_CMD_CACHE:
        return MIN(wire->length, disk_backend(t->disk)->prefetch_max);
    default:
        return 0;
    }
}

static void let_go(void *holder)
{
    hold_leave(holder);
}

bool hold_back(Transmission *t, const NbdRequest *wire)
{
    Hold *hold = &t->hold;
    if (!atomic_load_explicit(hold->limited, memory_order_relaxed) && !hold->place.queued)
        return false;
    /* A flush costs what the writes before it have paid for. */
    if (hold->admitted || wire->type == NBD_CMD_FLUSH)
        return false;
    if (atomic_load(t->stop) != 0) {
        /* There is no time to lose, and no more to come. */
        hold_leave(t);
        return false;
    }
    hold->ask_again = throttle_take(hold->throttle, &hold->place, moved(t, wire));
    if (hold->ask_again != 0 && t->now >= hold->probe_at) {
        throttle_overdraw(hold->throttle, &hold->place, moved(t, wire));
        hold->ask_again = 0;
        hold->probe_at = G_MAXINT64;
    }
    if (hold->ask_again != 0) {
        hold->since = hold->since ? hold->since : t->now;
        t->stream->let_go = let_go;
        t->stream->holder = t;
        return true;
    }
    if (hold->since)
        throttle_count_wait(hold->throttle, t->now - hold->since);
    hold->since = 0;
    hold->admitted = true;
    t->stream->let_go = NULL;
    return false;
}

bool hold_wait(Transmission *t)
{
    Hold *hold = &t->hold;
    if (!hold->place.queued)
        return true; /* a send has waited since */
    Request *done = done_queue_take(&t->done, true);
    if (done != NULL) {
        submit_collect(t, done);
        return true;
    }
    struct pollfd fds[2] = {
        {.fd = t->done.wake_fd, .events = POLLIN},
        /* POLLHUP and POLLERR come unasked */
        {.fd = t->stream->fd, .events = hold->end_seen ? 0 : POLLRDHUP},
    };
    gint64 until = MIN(hold->ask_again, hold->probe_at);
    gint64 left = MAX(until - g_get_monotonic_time(), 0);
    gather_away(&t->gather);
    engine_lane_poll(&t->lane, fds, 2, until == G_MAXINT64 ? -1 : left);
    if (fds[0].revents != 0) {
        eventfd_t ignored;
        eventfd_read(t->done.wake_fd, &ignored);
    }
    submit_collect(t, done_queue_take(&t->done, false));
    t->now = g_get_monotonic_time();
    if (fds[1].revents == POLLRDHUP) {
        hold->end_seen = true;
        hold->probe_at = t->now + PROBE_AFTER;
        return true;
    }
    return fds[1].revents == 0;
}

void hold_leave(Transmission *t)
{
    t->stream->let_go = NULL;
    throttle_leave(t->hold.throttle, &t->hold.place);
}
