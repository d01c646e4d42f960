/* Submitters share the submission queue under a lock, and hand it to the kernel themselves: for
 * direct I/O that is the whole way to the device. One thread reaps what has completed.
 *
 * The kernel runs part of a completion on the thread that submitted: a submitter's own system calls
 * may see EINTR for it. */
#include "storage/ring.h"
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

/* The submission queue only has to take what one submitter queues at once; completions wait in the
 * kernel when they do not fit. */
#define SUBMISSIONS 64
#define COMPLETIONS 1024
#define STACK_BYTES (256 * 1024)
#define LONGEST     ((size_t)1 << 30)
/* Before the kernel is asked again after it was short of memory. */
#define RETRY_MICROSECONDS 100

struct Ring {
    struct io_uring uring;
    pthread_mutex_t lock; /* the submission queue */
    pthread_t reaper;
    RingFunction completed;
    gpointer data;
    _Atomic unsigned in_flight;
    _Atomic bool closing;
};

/* Under lock. */
static struct io_uring_sqe *next_entry(Ring *ring)
{
    struct io_uring_sqe *entry;

    while ((entry = io_uring_get_sqe(&ring->uring)) == NULL) {
        if (io_uring_submit(&ring->uring) < 0) {
            usleep(RETRY_MICROSECONDS);
        }
    }
    return entry;
}

/* Under lock. The kernel refuses for moments only (memory, a signal); entries stay queued. */
static void submit_all(Ring *ring)
{
    while (io_uring_sq_ready(&ring->uring) > 0) {
        int result = io_uring_submit(&ring->uring);

        if (result < 0 && result != -EINTR) {
            usleep(RETRY_MICROSECONDS);
        }
    }
}

static void reap(Ring *ring, struct io_uring_cqe *entry)
{
    EngineIo *io = io_uring_cqe_get_data(entry);
    int moved = entry->res;

    io_uring_cqe_seen(&ring->uring, entry);
    if (io == NULL) {
        return; /* ring_free's, to wake us */
    }
    /* Pairs with the store in ring_submit: what the submitter wrote into *io comes before. */
    atomic_load_explicit(&io->submitted, memory_order_acquire);
    ring->completed(ring->data, io, moved);
    atomic_fetch_sub(&ring->in_flight, 1);
}

static void *reaper(void *data)
{
    Ring *ring = data;

    while (!atomic_load(&ring->closing) || atomic_load(&ring->in_flight) > 0) {
        struct io_uring_cqe *entry;

        if (io_uring_wait_cqe(&ring->uring, &entry) == 0) {
            reap(ring, entry);
        }
    }
    return NULL;
}

static bool start_reaper(Ring *ring)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int result;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&ring->reaper, &attributes, reaper, ring);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return result == 0;
}

/* What is asked of a ring: that it has the operations, and keeps completions that do not fit. */
static bool is_usable(struct io_uring *uring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(uring);
    bool usable = probe != NULL && io_uring_opcode_supported(probe, IORING_OP_READ) &&
                  io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
                  (uring->features & IORING_FEAT_NODROP) != 0;

    io_uring_free_probe(probe);
    return usable;
}

Ring *ring_new(RingFunction completed, gpointer data)
{
    Ring *ring = g_new0(Ring, 1);
    struct io_uring_params parameters = {.flags = IORING_SETUP_CQSIZE, .cq_entries = COMPLETIONS};

    if (io_uring_queue_init_params(SUBMISSIONS, &ring->uring, &parameters) < 0) {
        g_free(ring);
        return NULL;
    }
    pthread_mutex_init(&ring->lock, NULL);
    ring->completed = completed;
    ring->data = data;
    if (!is_usable(&ring->uring) || !start_reaper(ring)) {
        pthread_mutex_destroy(&ring->lock);
        io_uring_queue_exit(&ring->uring);
        g_free(ring);
        return NULL;
    }
    return ring;
}

void ring_free(Ring *ring)
{
    struct io_uring_sqe *entry;

    if (ring == NULL) {
        return;
    }
    pthread_mutex_lock(&ring->lock);
    atomic_store(&ring->closing, true);
    entry = next_entry(ring);
    io_uring_prep_nop(entry);
    io_uring_sqe_set_data(entry, NULL);
    submit_all(ring);
    pthread_mutex_unlock(&ring->lock);
    pthread_join(ring->reaper, NULL);
    io_uring_queue_exit(&ring->uring);
    pthread_mutex_destroy(&ring->lock);
    g_free(ring);
}

void ring_submit(Ring *ring, EngineIo *io)
{
    /* What is more than the kernel moves at once is left to the threads. */
    unsigned length = (unsigned)MIN(io->length, LONGEST);
    struct io_uring_sqe *entry;

    atomic_fetch_add(&ring->in_flight, 1);
    pthread_mutex_lock(&ring->lock);
    entry = next_entry(ring);
    if (io->write) {
        io_uring_prep_write(entry, io->fd, io->buffer, length, io->offset);
    } else {
        io_uring_prep_read(entry, io->fd, io->buffer, length, io->offset);
    }
    io_uring_sqe_set_data(entry, io);
    atomic_store_explicit(&io->submitted, true, memory_order_release);
    submit_all(ring);
    pthread_mutex_unlock(&ring->lock);
}
