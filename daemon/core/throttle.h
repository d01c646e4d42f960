/* How much the clients of an export may do, together: two token buckets, of operations and bytes.
 *
 * A bucket fills at its rate, up to its burst, and is full at first. An operation is let through
 * when both have what it takes; one that takes more than a burst waits for a full bucket and leaves
 * a debt. So in any time T no more than burst + rate x T is let through (and what the largest
 * operation has beyond a burst). Those who wait are let through in the order in which they came,
 * and each connection has one operation waiting at most: clients of an export get equal shares.
 *
 * Thread-safe. Nothing here waits: a connection waits in its own way, on a descriptor of its own.
 * The lock is below the registry's. */
#ifndef CORE_THROTTLE_H
#define CORE_THROTTLE_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* 0: no limit; a burst of 0: a tenth of a second's. */
typedef struct {
    uint64_t iops, iops_burst;           /* operations a second, operations */
    uint64_t bandwidth, bandwidth_burst; /* bytes a second, bytes */
} ThrottleLimits;

typedef struct ThrottleWaiter ThrottleWaiter;
struct ThrottleWaiter {
    int wake_fd; /* an eventfd: written to when it is to ask again */
    bool queued; /* the throttle's; false at first */
    ThrottleWaiter *next;
};

typedef struct Throttle Throttle;

Throttle *throttle_new(const ThrottleLimits *limits);
void throttle_free(Throttle *throttle); /* takes NULL; nobody waits */

/* At once, also for those who wait. A bucket keeps what it has, as far as its new burst goes. */
void throttle_set(Throttle *throttle, const ThrottleLimits *limits);

/* Lets an operation of so many bytes through, or not yet: the answer is 0, or when to ask again at
 * the latest (g_get_monotonic_time()'s scale; G_MAXINT64: when woken). Whoever is told to wait
 * either asks again in time or calls throttle_leave: all the others wait until the first one has.
 */
gint64 throttle_take(Throttle *throttle, ThrottleWaiter *waiter, uint64_t bytes);
/* Lets it through ahead of its turn, whatever debt that leaves; it waits no longer. */
void throttle_overdraw(Throttle *throttle, ThrottleWaiter *waiter, uint64_t bytes);
/* Waits no longer. Also when it does not wait. */
void throttle_leave(Throttle *throttle, ThrottleWaiter *waiter);

/* Since it was made: operations that had to wait, and for how long, in all. */
void throttle_count_wait(Throttle *throttle, gint64 microseconds);
typedef struct {
    uint64_t operations, microseconds;
} ThrottleStats;
ThrottleStats throttle_stats(const Throttle *throttle);

/* True while there is any limit: to look at it (relaxed) is all that an export without one pays. */
const _Atomic bool *throttle_switch(const Throttle *throttle);

#endif
