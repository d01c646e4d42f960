#include "daemon/nbd/gather.h"
#include <stdatomic.h>
#include <sys/prctl.h>
#include <time.h>

/* Microseconds of a stretch, and what it may take at most to count: a client that thinks between
 * its requests tells nothing. */
#define STRETCH      4000
#define STRETCH_MOST (3 * STRETCH)
/* Requests a millisecond of a client for which it is tried, and for which it is kept up. With fewer
 * a sleep this short would gather nothing. One that asks for one thing at a time may be as quick:
 * it never brings two requests at once, so it is never slept for. */
#define RATE_TO_TRY  20
#define RATE_TO_KEEP 10
/* Stretches of a trial, half of them with a pause, and what these must do more, in percent. */
#define STEPS  8
#define BETTER 5
/* From one trial to the next: longer and longer, while they end alike. */
#define REST_LEAST (250 * 1000)
#define REST_MOST  (4 * 1000 * 1000)

/* Clients that are busy, of all connections. */
static _Atomic unsigned busy_ones;

static void set_busy(Gather *gather, bool busy)
{
    if (gather->busy != busy)
        atomic_fetch_add(&busy_ones, busy ? 1u : -1u);
    gather->busy = busy;
}

static bool has_room(void)
{
    return atomic_load(&busy_ones) <= MAX(g_get_num_processors() / 2, 1);
}

static void begin_stretch(Gather *gather, gint64 now)
{
    gather->since = now;
    gather->requests = 0;
}

static void stop(Gather *gather)
{
    gather->on = gather->kept = false;
    gather->step = 0;
    gather->rest = REST_LEAST;
}

void gather_init(Gather *gather, gint64 pause)
{
    *gather = (Gather){.pause = pause, .rest = REST_LEAST};
}

void gather_clear(Gather *gather)
{
    set_busy(gather, false);
}

void gather_idle(Gather *gather)
{
    set_busy(gather, false);
    stop(gather);
    gather->since = 0;
}

static void begin_trial(Gather *gather)
{
    gather->step = 1;
    gather->sum[0].requests = gather->sum[0].time = 0;
    gather->sum[1] = gather->sum[0];
}

static bool is_better(const Gather *gather)
{
    return gather->sum[1].requests * gather->sum[0].time * 100 >
           gather->sum[0].requests * gather->sum[1].time * (100 + BETTER);
}

static void conclude(Gather *gather, bool better, gint64 now)
{
    bool alike = gather->kept == better;
    gather->rest = alike ? MIN(gather->rest * 2, REST_MOST) : REST_LEAST;
    gather->next = now + gather->rest;
    gather->on = gather->kept = better;
    gather->step = 0;
}

static void end_stretch(Gather *gather, gint64 now)
{
    gint64 time = now - gather->since;
    gint64 rate = gather->on ? RATE_TO_KEEP : RATE_TO_TRY;
    bool busy = gather->requests * G_GINT64_CONSTANT(1000) >= rate * time;
    set_busy(gather, busy);
    if (!has_room() || (!busy && !gather->on)) {
        stop(gather);
    } else if (!busy) {
        conclude(gather, false, now);
    } else if (gather->step > 0) {
        gather->sum[gather->on].requests += gather->requests;
        gather->sum[gather->on].time += time;
        gather->on = !gather->on;
        if (gather->step++ == STEPS)
            conclude(gather, is_better(gather), now);
    } else if (now >= gather->next) {
        begin_trial(gather);
    }
}

gint64 gather_before_wait(Gather *gather, unsigned requests, gint64 now)
{
    if (gather->pause == 0)
        return 0;
    if (gather->since == 0 || now - gather->since > STRETCH_MOST)
        begin_stretch(gather, now);
    gather->requests += requests;
    if (now - gather->since >= STRETCH) {
        end_stretch(gather, now);
        begin_stretch(gather, now);
    }
    return gather->on && requests > 1 ? gather->pause : 0;
}

void gather_sleep(gint64 microseconds)
{
    static _Thread_local bool exact;
    if (!exact)
        prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    exact = true;
    struct timespec time = {.tv_nsec = (long)microseconds * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}
