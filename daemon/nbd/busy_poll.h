/* Looking for the next request for some microseconds before going to sleep for it.
 *
 * To put a thread to sleep and to wake it on another processor takes longer than most requests do,
 * and its client pays half of that. So a client that asks for one thing at a time, and quickly,
 * finds its server awake: a wait begins with looks, if the waits before it were short: than the
 * window, or asleep than two of them, since a look spares a wakeup. One that takes its time costs
 * nothing but the few windows that tell. Of one that has several requests in flight gather.h finds
 * out what suits it.
 *
 * Between two looks the processor is offered to whoever wants it, and no more than half of the
 * processors are looked from at once.
 *
 * Owned by the connection's thread; times are g_get_monotonic_time(). */
#ifndef NBD_BUSY_POLL_H
#define NBD_BUSY_POLL_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    gint64 window;        /* microseconds; 0: never */
    gint64 since;         /* when the wait began */
    unsigned alone;       /* waits, nearly in a row, that were short, each for one request */
    bool looking, looked; /* now; in this wait */
} BusyPoll;

/* At least one. */
unsigned busy_poll_half_of_processors(void);

void busy_poll_init(BusyPoll *poll, gint64 window);
/* A wait begins. alone: one request at most was done since the last one, and what is waited for is
 * no part of a large payload. True: look, and again for as long as busy_poll_again says so. */
bool busy_poll_begin(BusyPoll *poll, bool alone, gint64 now);
/* The same for a client of which gather.h knows better. */
bool busy_poll_begin_at_once(BusyPoll *poll, gint64 now);
bool busy_poll_again(BusyPoll *poll);
/* There is nothing more to look for, or it is time to sleep. Always follows. */
void busy_poll_end(BusyPoll *poll);
/* The wait is over. */
void busy_poll_learn(BusyPoll *poll, gint64 now);

#endif
