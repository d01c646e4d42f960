/* Letting requests gather: a short sleep before a wait for more of them.
 *
 * A client with many requests in flight sends them one by one, and each that meets a server asleep
 * in a receive wakes it, at the client's cost. While the server sleeps by the clock nobody has to
 * wake it, and it then takes all that has come at once. Whether that is any good depends on the
 * machine and on how many requests the client has in flight, so it is tried: short stretches with
 * and without take turns, and the quicker way is kept, until the next trial.
 *
 * It is for one busy client among idle processors. Where more than half of the processors have
 * such a client, requests gather anyway while their server waits for a processor.
 *
 * Owned by the connection's thread; times are g_get_monotonic_time(). */
#ifndef NBD_GATHER_H
#define NBD_GATHER_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    gint64 pause; /* microseconds; 0: never */
    bool on;
    bool busy; /* counted among all that are */
    /* the stretch that is being looked at */
    gint64 since;
    unsigned requests;
    /* the trial */
    unsigned step; /* 0: none is under way */
    bool kept;     /* how the last one ended */
    gint64 next, rest;
    struct {
        gint64 requests, time;
    } sum[2]; /* off, on */
} Gather;

void gather_init(Gather *gather, gint64 pause);
void gather_clear(Gather *gather);
/* Before a wait; requests: how many the last wait brought. Microseconds to sleep first, or 0. */
gint64 gather_before_wait(Gather *gather, unsigned requests, gint64 now);
/* The client has not asked for anything for a while. */
void gather_idle(Gather *gather);

/* Sleeps for microseconds, and not for the slack that timers have otherwise. */
void gather_sleep(gint64 microseconds);

#endif
