#include "daemon/core/throttle.h"
#include <pthread.h>
#include <sys/eventfd.h>

/* What a bucket holds when no burst was given, in seconds. */
#define DEFAULT_BURST 0.1
/* Rounding must not make it wait once more for the last part of a token. */
#define EPSILON 1e-6

typedef struct {
    double rate; /* tokens a second; 0: no limit */
    double burst;
    double level; /* as of Throttle.filled; below 0: a debt */
} Bucket;

struct Throttle {
    _Atomic bool on;
    _Atomic uint64_t waited, waited_microseconds;

    pthread_mutex_t lock;
    Bucket operations, bytes;
    gint64 filled; /* up to when the buckets are filled, monotonic */
    ThrottleWaiter *first, **last;
};

static void set_bucket(Bucket *bucket, uint64_t rate, uint64_t burst)
{
    bool was_on = bucket->rate > 0;
    bucket->rate = (double)rate;
    bucket->burst = burst ? (double)burst : MAX((double)rate * DEFAULT_BURST, 1);
    if (!was_on || bucket->level > bucket->burst)
        bucket->level = bucket->burst;
}

static void fill(Bucket *bucket, gint64 microseconds)
{
    bucket->level = MIN(bucket->burst, bucket->level + bucket->rate * (double)microseconds / 1e6);
}

/* In how many microseconds the bucket lets this through; 0: now. */
static gint64 delay_of(const Bucket *bucket, double tokens)
{
    double missing = MIN(tokens, bucket->burst) - bucket->level;
    if (bucket->rate == 0 || missing <= EPSILON)
        return 0;
    return (gint64)MIN(missing * 1e6 / bucket->rate, 3600e6) + 1;
}

static void pay(Bucket *bucket, double tokens)
{
    if (bucket->rate > 0)
        bucket->level -= tokens;
}

static void fill_all(Throttle *throttle)
{
    gint64 now = g_get_monotonic_time();
    fill(&throttle->operations, now - throttle->filled);
    fill(&throttle->bytes, now - throttle->filled);
    throttle->filled = now;
}

/* Under the lock. */
static void wake_first(Throttle *throttle)
{
    if (throttle->first)
        eventfd_write(throttle->first->wake_fd, 1);
}

static void set_limits(Throttle *throttle, const ThrottleLimits *limits)
{
    set_bucket(&throttle->operations, limits->iops, limits->iops_burst);
    set_bucket(&throttle->bytes, limits->bandwidth, limits->bandwidth_burst);
    atomic_store(&throttle->on, limits->iops || limits->bandwidth);
}

Throttle *throttle_new(const ThrottleLimits *limits)
{
    Throttle *throttle = g_new0(Throttle, 1);
    pthread_mutex_init(&throttle->lock, NULL);
    throttle->last = &throttle->first;
    throttle->filled = g_get_monotonic_time();
    set_limits(throttle, limits);
    return throttle;
}

void throttle_free(Throttle *throttle)
{
    if (!throttle)
        return;
    pthread_mutex_destroy(&throttle->lock);
    g_free(throttle);
}

void throttle_set(Throttle *throttle, const ThrottleLimits *limits)
{
    pthread_mutex_lock(&throttle->lock);
    fill_all(throttle);
    set_limits(throttle, limits);
    wake_first(throttle); /* it looks anew; the others follow it */
    pthread_mutex_unlock(&throttle->lock);
}

static void leave(Throttle *throttle, ThrottleWaiter *waiter)
{
    ThrottleWaiter **link = &throttle->first;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
    if (throttle->last == &waiter->next)
        throttle->last = link;
    waiter->queued = false;
    wake_first(throttle);
}

gint64 throttle_take(Throttle *throttle, ThrottleWaiter *waiter, uint64_t bytes)
{
    pthread_mutex_lock(&throttle->lock);
    gint64 due = G_MAXINT64;
    if (throttle->first == NULL || throttle->first == waiter) {
        fill_all(throttle);
        gint64 delay = delay_of(&throttle->operations, 1);
        if (bytes > 0) /* others have nothing to do with a debt of bytes */
            delay = MAX(delay, delay_of(&throttle->bytes, (double)bytes));
        due = delay > 0 ? throttle->filled + delay : 0;
    }
    if (due == 0) {
        pay(&throttle->operations, 1);
        pay(&throttle->bytes, (double)bytes);
        if (waiter->queued)
            leave(throttle, waiter);
    } else if (!waiter->queued) {
        waiter->queued = true;
        waiter->next = NULL;
        *throttle->last = waiter;
        throttle->last = &waiter->next;
    }
    pthread_mutex_unlock(&throttle->lock);
    return due;
}

void throttle_overdraw(Throttle *throttle, ThrottleWaiter *waiter, uint64_t bytes)
{
    pthread_mutex_lock(&throttle->lock);
    fill_all(throttle);
    pay(&throttle->operations, 1);
    pay(&throttle->bytes, (double)bytes);
    if (waiter->queued)
        leave(throttle, waiter);
    pthread_mutex_unlock(&throttle->lock);
}

void throttle_leave(Throttle *throttle, ThrottleWaiter *waiter)
{
    pthread_mutex_lock(&throttle->lock);
    if (waiter->queued)
        leave(throttle, waiter);
    pthread_mutex_unlock(&throttle->lock);
}

void throttle_count_wait(Throttle *throttle, gint64 microseconds)
{
    atomic_fetch_add_explicit(&throttle->waited, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&throttle->waited_microseconds, (uint64_t)MAX(microseconds, 0),
                              memory_order_relaxed);
}

ThrottleStats throttle_stats(const Throttle *throttle)
{
    return (ThrottleStats){
        .operations = atomic_load_explicit(&throttle->waited, memory_order_relaxed),
        .microseconds = atomic_load_explicit(&throttle->waited_microseconds, memory_order_relaxed),
    };
}

const _Atomic bool *throttle_switch(const Throttle *throttle)
{
    return &throttle->on;
}
