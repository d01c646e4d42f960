#include "daemon/nbd/busy_poll.h"
#include <sched.h>
#include <stdatomic.h>

/* A client is taken for one that asks for one thing at a time after so many waits. */
#define ALONE 32
/* Who has been one for longer may be late now and then: each look in vain counts for so many. */
#define ALONE_MOST (2 * ALONE)
#define IN_VAIN    (ALONE / 2)

/* A wait that was slept through has both wakeups in it, the client's and ours, of which looking
 * spares one: it counts as short up to so many windows. */
#define ASLEEP 2

/* Threads that are looking, of all connections. */
static _Atomic unsigned lookers;

unsigned busy_poll_half_of_processors(void)
{
    /* GLib asks the kernel each time, and this is asked for each request. */
    static _Atomic unsigned half;
    unsigned known = atomic_load_explicit(&half, memory_order_relaxed);
    if (known == 0) {
        known = MAX(g_get_num_processors() / 2, 1);
        atomic_store_explicit(&half, known, memory_order_relaxed);
    }
    return known;
}

void busy_poll_init(BusyPoll *poll, gint64 window)
{
    *poll = (BusyPoll){.window = window};
}

bool busy_poll_begin(BusyPoll *poll, bool alone, gint64 now)
{
    poll->since = now;
    poll->looked = false;
    if (!alone)
        poll->alone = 0;
    return poll->alone >= ALONE && busy_poll_begin_at_once(poll, now);
}

bool busy_poll_begin_at_once(BusyPoll *poll, gint64 now)
{
    poll->since = now;
    poll->looked = false;
    if (poll->window == 0)
        return false;
    poll->looking = poll->looked = atomic_fetch_add(&lookers, 1) < busy_poll_half_of_processors();
    if (!poll->looking)
        atomic_fetch_sub(&lookers, 1);
    return poll->looking;
}

bool busy_poll_again(BusyPoll *poll)
{
    /* The client may want this very processor: it comes first, and then there is something. */
    sched_yield();
    return g_get_monotonic_time() - poll->since < poll->window;
}

void busy_poll_end(BusyPoll *poll)
{
    if (poll->looking)
        atomic_fetch_sub(&lookers, 1);
    poll->looking = false;
}

void busy_poll_learn(BusyPoll *poll, gint64 now)
{
    gint64 most = poll->looked ? poll->window : ASLEEP * poll->window;
    if (now - poll->since < most)
        poll->alone = MIN(poll->alone + 1, ALONE_MOST);
    else
        poll->alone -= poll->looked ? MIN(poll->alone, IN_VAIN) : poll->alone;
}
