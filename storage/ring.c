/* Where the kernel can (6.1), completions wait until their thread asks for them: it is not
 * interrupted at its other work. */
#include "storage/ring.h"
#include <errno.h>
#include <liburing.h>
#include <unistd.h>

/* Transfers that are queued before the kernel is called for them. Each call may ring a virtual
 * device's bell; many at once ring it once, but the device should not wait for all of them. */
#define BATCH       16
#define SUBMISSIONS 32
/* Completions that do not fit wait in the kernel. */
#define COMPLETIONS 256
#define LONGEST     ((size_t)1 << 30)
/* Before the kernel is asked again after it was short of memory. */
#define RETRY_MICROSECONDS 100

/* What entries carry as their data: a transfer, or a place and its generation in an odd number. */
#define WATCH_DATA(place, generation)                                                              \
    (UINT64_C(1) | (uint64_t)(place) << 1 | (uint64_t)(generation) << 8)
#define OTHER_DATA (UINT64_C(1) | 0x7f << 1)

/* A descriptor that the kernel looks at. */
typedef struct {
    int fd;
    short events, revents;
    bool armed;
    uint32_t generation; /* of what is armed: answers of earlier ones no longer count */
} Watch;

struct Ring {
    struct io_uring uring;
    RingFunction completed;
    gpointer data;
    unsigned in_flight;
    Watch watches[RING_WATCHED];
};

/* The kernel refuses for moments only (memory, a signal); entries stay queued. */
void ring_push(Ring *ring)
{
    while (io_uring_sq_ready(&ring->uring) > 0) {
        int result = io_uring_submit(&ring->uring);

        /* EBUSY: completions that did not fit have to be taken first, by ring_poll. */
        if (result == -EBUSY) {
            return;
        }
        if (result < 0 && result != -EINTR) {
            usleep(RETRY_MICROSECONDS);
        }
    }
}

static struct io_uring_cqe *peek(Ring *ring)
{
    struct io_uring_cqe *entry;

    return io_uring_peek_cqe(&ring->uring, &entry) == 0 ? entry : NULL;
}

static void watch_answered(Ring *ring, uint64_t data, int result)
{
    unsigned place = data >> 1 & 0x7f;
    Watch *watch;

    if (place >= RING_WATCHED) {
        return;
    }
    watch = &ring->watches[place];
    if (!watch->armed || watch->generation != data >> 8) {
        return;
    }
    watch->armed = false;
    watch->revents = (short)(result >= 0 ? result : POLLERR);
}

/* Whether there was anything. */
static bool reap(Ring *ring)
{
    struct io_uring_cqe *entry;
    bool any = false;

    while ((entry = peek(ring)) != NULL) {
        uint64_t data = entry->user_data;
        int result = entry->res;

        io_uring_cqe_seen(&ring->uring, entry);
        if (data & 1) {
            watch_answered(ring, data, result);
        } else {
            ring->in_flight--;
            ring->completed(ring->data, (EngineIo *)(gpointer)(uintptr_t)data, result);
        }
        any = true;
    }
    return any;
}

static struct io_uring_sqe *next_entry(Ring *ring)
{
    struct io_uring_sqe *entry;

    while ((entry = io_uring_get_sqe(&ring->uring)) == NULL) {
        ring_push(ring);
        reap(ring);
    }
    return entry;
}

/* What is asked of a ring: that it has the operations, and keeps completions that do not fit. */
static bool is_usable(struct io_uring *uring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(uring);
    bool usable = probe != NULL && io_uring_opcode_supported(probe, IORING_OP_READ) &&
                  io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
                  io_uring_opcode_supported(probe, IORING_OP_POLL_REMOVE) &&
                  (uring->features & IORING_FEAT_NODROP) != 0 &&
                  (uring->features & IORING_FEAT_EXT_ARG) != 0;

    io_uring_free_probe(probe);
    return usable;
}

static bool set_up(struct io_uring *uring)
{
    static const unsigned ways[] = {
#ifdef IORING_SETUP_DEFER_TASKRUN
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_COOP_TASKRUN,
#endif
        0,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        struct io_uring_params parameters = {.flags = ways[i] | IORING_SETUP_CQSIZE,
                                             .cq_entries = COMPLETIONS};
        int result = io_uring_queue_init_params(SUBMISSIONS, uring, &parameters);

        if (result == 0) {
            return true;
        }
        if (result != -EINVAL) {
            return false;
        }
    }
    return false;
}

Ring *ring_new(RingFunction completed, gpointer data)
{
    Ring *ring = g_new0(Ring, 1);

    if (!set_up(&ring->uring)) {
        g_free(ring);
        return NULL;
    }
    if (!is_usable(&ring->uring)) {
        io_uring_queue_exit(&ring->uring);
        g_free(ring);
        return NULL;
    }
    ring->completed = completed;
    ring->data = data;
    return ring;
}

/* --- watching --- */

static void disarm(Ring *ring, unsigned place)
{
    Watch *watch = &ring->watches[place];
    struct io_uring_sqe *entry = next_entry(ring);

    io_uring_prep_poll_remove(entry, WATCH_DATA(place, watch->generation));
    entry->user_data = OTHER_DATA;
}

static void arm(Ring *ring, unsigned place, int fd, short events)
{
    Watch *watch = &ring->watches[place];
    struct io_uring_sqe *entry;

    if (watch->armed && watch->fd == fd && watch->events == events) {
        return;
    }
    if (watch->armed) {
        disarm(ring, place);
    }
    entry = next_entry(ring);
    *watch =
        (Watch){.fd = fd, .events = events, .armed = true, .generation = watch->generation + 1};
    io_uring_prep_poll_add(entry, fd, (unsigned short)events);
    entry->user_data = WATCH_DATA(place, watch->generation);
}

static void submit_and_wait(Ring *ring, gint64 timeout)
{
    struct __kernel_timespec time = {.tv_sec = timeout / G_USEC_PER_SEC,
                                     .tv_nsec = timeout % G_USEC_PER_SEC * 1000};
    struct io_uring_cqe *entry;
    int result =
        io_uring_submit_and_wait_timeout(&ring->uring, &entry, 1, timeout < 0 ? NULL : &time, NULL);

    if (result == -EAGAIN || result == -ENOMEM) {
        usleep(RETRY_MICROSECONDS);
    }
}

void ring_poll(Ring *ring, struct pollfd *fds, unsigned count, gint64 timeout)
{
    for (unsigned i = 0; i < count; i++) {
        fds[i].revents = 0;
        if (fds[i].fd >= 0) {
            arm(ring, i, fds[i].fd, fds[i].events);
        }
    }
    if (!reap(ring)) {
        submit_and_wait(ring, timeout);
        reap(ring);
    } else {
        ring_push(ring);
    }
    for (unsigned i = 0; i < count; i++) {
        if (fds[i].fd >= 0) {
            fds[i].revents = ring->watches[i].revents;
        }
        ring->watches[i].revents = 0;
    }
}

/* --- transfers --- */

void ring_submit(Ring *ring, EngineIo *io)
{
    /* What is more than the kernel moves at once is left to the threads. */
    unsigned length = (unsigned)MIN(io->length, LONGEST);
    struct io_uring_sqe *entry = next_entry(ring);

    if (io->write) {
        io_uring_prep_write(entry, io->fd, io->buffer, length, io->offset);
    } else {
        io_uring_prep_read(entry, io->fd, io->buffer, length, io->offset);
    }
    entry->user_data = (uintptr_t)io;
    ring->in_flight++;
    if (io_uring_sq_ready(&ring->uring) >= BATCH) {
        ring_push(ring);
    }
}

unsigned ring_in_flight(const Ring *ring)
{
    return ring->in_flight;
}

/* A descriptor that is watched stays open for as long: none is left behind. */
static bool is_watching(Ring *ring)
{
    bool watching = false;

    for (unsigned i = 0; i < RING_WATCHED; i++) {
        watching = watching || ring->watches[i].armed;
    }
    return watching;
}

void ring_free(Ring *ring)
{
    if (ring == NULL) {
        return;
    }
    for (unsigned i = 0; i < RING_WATCHED; i++) {
        if (ring->watches[i].armed) {
            disarm(ring, i);
        }
    }
    while (ring->in_flight > 0 || is_watching(ring)) {
        ring_poll(ring, NULL, 0, -1);
    }
    io_uring_queue_exit(&ring->uring);
    g_free(ring);
}
