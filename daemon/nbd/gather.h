/* How a connection waits for more requests of a busy client.
 *
 * A client with several requests in flight sends them one by one, and each that meets a server
 * asleep in a receive wakes it, at the client's cost. Nobody has to wake a server that is awake, or
 * that sleeps by the clock and then takes all that has come at once. Which is best depends on the
 * machine and on how many requests the client has in flight, so it is tried: short stretches of
 * each way take turns, and the quickest is kept, until the next trial.
 *
 * It is for one busy client among idle processors. Where more than half of the processors have
 * such a client, requests gather anyway while their server waits for a processor.
 *
 * Owned by the connection's thread; times are g_get_monotonic_time(). */
#ifndef NBD_GATHER_H
#define NBD_GATHER_H

#include <glib.h>
#include <stdbool.h>

typedef enum {
    GATHER_NOT,   /* asleep until the client sends something */
    GATHER_AWAKE, /* looking for it (busy_poll.h) */
    GATHER_SLEEP, /* asleep for a moment first: gather_sleep() */
} GatherWay;
#define GATHER_WAYS 3

typedef struct {
    gint64 pause; /* microseconds; 0: never */
    GatherWay way;
    bool busy; /* counted among all that are */
    /* the stretch that is being looked at */
    gint64 since;
    unsigned requests;
    /* the trial */
    unsigned step;  /* 0: none is under way */
    GatherWay kept; /* how the last one ended */
    gint64 next, rest;
    struct {
        gint64 requests, time;
    } sum[GATHER_WAYS];
} Gather;

void gather_init(Gather *gather, gint64 pause);
void gather_clear(Gather *gather);
/* Before a wait; requests: how many were taken since the one before. Never GATHER_SLEEP after one
 * alone. */
GatherWay gather_before_wait(Gather *gather, unsigned requests, gint64 now);
/* The client has not asked for anything for a while. */
void gather_idle(Gather *gather);
/* Before a wait for something else, the disk or a limit, for however long: meanwhile the client is
 * none of the busy ones. */
void gather_away(Gather *gather);

/* Sleeps for microseconds, and not for the slack that timers have otherwise. */
void gather_sleep(gint64 microseconds);

#endif
