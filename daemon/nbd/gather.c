#include "daemon/nbd/gather.h"
#include "daemon/nbd/busy_poll.h"
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

/* Microseconds of a stretch, and what it may take at most to count: a client that thinks between
 * its requests tells nothing. */
#define STRETCH      4000
#define STRETCH_MOST (3 * STRETCH)
/* Requests a millisecond of a client for which it is tried, and for which it is kept up. With fewer
 * there is little to gather, and to stay awake costs much for each. */
#define RATE_TO_TRY  20
#define RATE_TO_KEEP 10
/* Stretches of a trial, as many of each way; and what a way must do more than one that costs less,
 * in percent. */
#define STEPS  (4 * GATHER_WAYS)
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
    return atomic_load(&busy_ones) <= busy_poll_half_of_processors();
}

static void begin_stretch(Gather *gather, gint64 now)
{
    gather->since = now;
    gather->requests = 0;
}

static void stop(Gather *gather)
{
    gather->way = gather->kept = GATHER_NOT;
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

void gather_away(Gather *gather)
{
    set_busy(gather, false);
}

static void begin_trial(Gather *gather)
{
    gather->step = 1;
    gather->way = GATHER_NOT;
    memset(gather->sum, 0, sizeof gather->sum);
}

static bool is_better(const Gather *gather, GatherWay way, GatherWay than)
{
    return gather->sum[way].requests * gather->sum[than].time * 100 >
           gather->sum[than].requests * gather->sum[way].time * (100 + BETTER);
}

/* A short sleep costs least. */
static GatherWay best(const Gather *gather)
{
    bool awake = is_better(gather, GATHER_AWAKE, GATHER_NOT);
    bool sleep = is_better(gather, GATHER_SLEEP, GATHER_NOT);
    if (awake && sleep)
        sleep = !is_better(gather, GATHER_AWAKE, GATHER_SLEEP);
    return sleep ? GATHER_SLEEP : awake ? GATHER_AWAKE : GATHER_NOT;
}

static void conclude(Gather *gather, GatherWay way, gint64 now)
{
    gather->rest = way == gather->kept ? MIN(gather->rest * 2, REST_MOST) : REST_LEAST;
    gather->next = now + gather->rest;
    gather->way = gather->kept = way;
    gather->step = 0;
}

static void end_stretch(Gather *gather, gint64 now)
{
    gint64 time = now - gather->since;
    gint64 rate = gather->way == GATHER_NOT ? RATE_TO_TRY : RATE_TO_KEEP;
    bool busy = gather->requests * G_GINT64_CONSTANT(1000) >= rate * time;
    set_busy(gather, busy);
    if (!has_room() || (!busy && gather->way == GATHER_NOT)) {
        if (gather->step > 0)
            gather->next = now + REST_LEAST;
        stop(gather);
    } else if (gather->step > 0) {
        gather->sum[gather->way].requests += gather->requests;
        gather->sum[gather->way].time += time;
        gather->way = (gather->way + 1) % GATHER_WAYS;
        if (gather->step++ == STEPS)
            conclude(gather, best(gather), now);
    } else if (!busy) {
        conclude(gather, GATHER_NOT, now);
    } else if (now >= gather->next) {
        begin_trial(gather);
    }
}

GatherWay gather_before_wait(Gather *gather, unsigned requests, gint64 now)
{
    if (gather->pause == 0)
        return GATHER_NOT;
    if (gather->since == 0 || now - gather->since > STRETCH_MOST)
        begin_stretch(gather, now); /* what was done before it is not of it */
    else
        gather->requests += requests;
    if (now - gather->since >= STRETCH) {
        end_stretch(gather, now);
        begin_stretch(gather, now);
    }
    return gather->way == GATHER_SLEEP && requests <= 1 ? GATHER_NOT : gather->way;
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
