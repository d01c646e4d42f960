/* Where the kernel can (6.1), completions wait until their thread asks for them: it is not
 * interrupted at its other work. */
#include "storage/ring.h"
#include <errno.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Transfers that are queued before the kernel is called for them. Each call may ring a virtual
 * device's bell; many at once ring it once, but the device should not wait for all of them. */
#define BATCH       16
#define SUBMISSIONS 32
/* There is room for those of all that is in flight. (The kernel would keep what does not fit, but
 * only while it has memory.) */
#define COMPLETIONS 512
#define LONGEST     ((size_t)1 << 30)
/* The kernel's threads for what cannot go on without waiting: two, so that one has the next while
 * the other is being woken. */
#define WORKERS 2
/* Before the kernel is asked again after it was short of memory. */
#define RETRY_MICROSECONDS 100

/* What entries carry as their data: a transfer, or an odd number that tells a watch. */
#define WATCH_DATA(watch)  (UINT64_C(1) | (uint64_t)(watch) << 1)
#define REMOVE_DATA(watch) (WATCH_DATA(watch) | 0x80)
#define DATA_WATCH(data)   ((unsigned)((data) >> 1 & 0x3f))

/* A descriptor that the kernel looks at, once: armed until it has answered. */
typedef struct {
    int fd;
    short events, revents;
    bool armed;
    bool removing;
} Watch;
/* Of the two descriptors, the second is waited for in a few ways. */
#define WATCHES 8

struct Ring {
    struct io_uring uring;
    RingFunction completed;
    gpointer data;
    unsigned in_flight;
    bool reaped;  /* since it was last set to false */
    int event_fd; /* -1, or what tells of completions while poll(2) is waited in */
    Watch watches[WATCHES];
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
    Watch *watch = &ring->watches[DATA_WATCH(data)];

    if (data == REMOVE_DATA(DATA_WATCH(data))) {
        watch->removing = false;
        return;
    }
    watch->armed = false;
    watch->revents = (short)(result >= 0 ? result : POLLERR);
}

static void reap(Ring *ring)
{
    struct io_uring_cqe *entry;

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
        ring->reaped = true;
    }
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

/* Else there are as many as the ring has entries, or four for each processor. Kernels before 5.15
 * cannot be told, and keep to that. */
static void bound_workers(struct io_uring *uring)
{
    unsigned most[2] = {WORKERS, 0}; /* for files; for all else: as it is */

    io_uring_register_iowq_max_workers(uring, most);
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
    bound_workers(&ring->uring);
    ring->completed = completed;
    ring->data = data;
    ring->event_fd = -1;
    return ring;
}

/* --- watching --- */

/* The watch for that, or one that is free; NULL: all are in use. */
static Watch *find_watch(Ring *ring, int fd, short events)
{
    Watch *found = NULL;

    for (unsigned i = 0; i < WATCHES; i++) {
        Watch *watch = &ring->watches[i];

        if (watch->armed && watch->fd == fd && watch->events == events) {
            return watch;
        }
        if (!watch->armed && found == NULL) {
            found = watch;
        }
    }
    return found;
}

static Watch *arm(Ring *ring, int fd, short events)
{
    Watch *watch = find_watch(ring, fd, events);

    if (watch != NULL && !watch->armed) {
        struct io_uring_sqe *entry = next_entry(ring);

        *watch = (Watch){.fd = fd, .events = events, .armed = true};
        io_uring_prep_poll_add(entry, fd, (unsigned short)events);
        entry->user_data = WATCH_DATA(watch - ring->watches);
    }
    return watch;
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

/* The kernel tells of a peer that has closed its direction whether it was asked for or not. */
static short wanted(short events, short revents)
{
    return revents & (short)(events | POLLERR | POLLHUP | POLLNVAL);
}

/* False: poll(2) would do it better. */
static bool wait_in_ring(Ring *ring, struct pollfd *fds, unsigned count, gint64 timeout)
{
    Watch *watches[RING_WATCHED] = {NULL};
    bool good = true;

    for (unsigned i = 0; i < count; i++) {
        if (fds[i].fd >= 0) {
            watches[i] = arm(ring, fds[i].fd, fds[i].events);
            good = good && watches[i] != NULL;
        }
    }
    reap(ring);
    if (!ring->reaped && good) {
        submit_and_wait(ring, timeout);
        reap(ring);
    } else {
        ring_push(ring);
    }
    for (unsigned i = 0; i < count; i++) {
        if (watches[i] != NULL && !watches[i]->armed) {
            fds[i].revents = wanted(fds[i].events, watches[i]->revents);
            good = good && fds[i].revents != 0;
        }
    }
    return good;
}

/* Where the ring would tell again and again what nobody asked for: it says by an eventfd that there
 * is something to reap, and poll(2) does the rest. Costs more, and is rarely needed. */
static void begin_events(Ring *ring)
{
    ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->event_fd >= 0 && io_uring_register_eventfd(&ring->uring, ring->event_fd) != 0) {
        close(ring->event_fd);
        ring->event_fd = -1;
    }
    if (ring->event_fd < 0) {
        usleep(RETRY_MICROSECONDS); /* told again, then, but not as fast as it goes */
    }
}

static void wait_by_events(Ring *ring, struct pollfd *fds, unsigned count, gint64 timeout)
{
    struct timespec time = {timeout / G_USEC_PER_SEC, timeout % G_USEC_PER_SEC * 1000};
    struct pollfd all[RING_WATCHED + 1] = {{.fd = ring->event_fd, .events = POLLIN}};
    eventfd_t ignored;

    for (unsigned i = 0; i < count; i++) {
        all[i + 1] = fds[i];
    }
    ring_push(ring);
    io_uring_get_events(&ring->uring);
    reap(ring);
    if (!ring->reaped) {
        ppoll(all, count + 1, timeout < 0 ? NULL : &time, NULL);
        eventfd_read(ring->event_fd, &ignored);
        io_uring_get_events(&ring->uring);
        reap(ring);
        for (unsigned i = 0; i < count; i++) {
            fds[i].revents = all[i + 1].revents;
        }
    }
}

void ring_poll(Ring *ring, struct pollfd *fds, unsigned count, gint64 timeout)
{
    ring->reaped = false;
    for (unsigned i = 0; i < count; i++) {
        fds[i].revents = 0;
    }
    if (ring->event_fd >= 0) {
        wait_by_events(ring, fds, count, timeout);
    } else if (!wait_in_ring(ring, fds, count, timeout)) {
        begin_events(ring);
    }
}

/* --- transfers --- */

void ring_submit(Ring *ring, EngineIo *io)
{
    /* What is more than the kernel moves at once is left over, as of any transfer that is cut
     * short. */
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

bool ring_has_room(const Ring *ring)
{
    return ring->in_flight < COMPLETIONS - 2 * WATCHES;
}

unsigned ring_in_flight(const Ring *ring)
{
    return ring->in_flight;
}

/* A descriptor that is watched stays open for as long: none is left behind. It takes another try
 * where a watch is just being woken. */
static bool remove_watches(Ring *ring)
{
    bool any = false;

    for (unsigned i = 0; i < WATCHES; i++) {
        Watch *watch = &ring->watches[i];

        if (watch->armed && !watch->removing) {
            struct io_uring_sqe *entry = next_entry(ring);

            io_uring_prep_poll_remove(entry, WATCH_DATA(i));
            entry->user_data = REMOVE_DATA(i);
            watch->removing = true;
        }
        any = any || watch->armed;
    }
    return any;
}

void ring_free(Ring *ring)
{
    if (ring == NULL) {
        return;
    }
    while (remove_watches(ring) || ring->in_flight > 0) {
        ring_poll(ring, NULL, 0, -1);
    }
    io_uring_queue_exit(&ring->uring);
    if (ring->event_fd >= 0) {
        close(ring->event_fd);
    }
    g_free(ring);
}
