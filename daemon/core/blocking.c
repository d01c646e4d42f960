#include "daemon/core/blocking.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    void (*function)(gpointer data);
    gpointer data;
    GDestroyNotify free_data;
    bool done, abandoned;
} Run;

static _Atomic unsigned abandoned_count;

static void run_free(Run *run)
{
    pthread_cond_destroy(&run->changed);
    pthread_mutex_destroy(&run->lock);
    g_free(run);
}

static void *run_thread(void *argument)
{
    Run *run = argument;
    run->function(run->data);
    pthread_mutex_lock(&run->lock);
    run->done = true;
    bool abandoned = run->abandoned;
    pthread_cond_signal(&run->changed);
    pthread_mutex_unlock(&run->lock);
    if (abandoned) {
        run->free_data(run->data);
        run_free(run);
        atomic_fetch_sub(&abandoned_count, 1);
    }
    return NULL;
}

static bool begin(Run *run)
{
    pthread_t thread;
    pthread_attr_t attributes;
    if (atomic_load(&abandoned_count) >= BLOCKING_MAX_ABANDONED)
        return false;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    bool begun = pthread_create(&thread, &attributes, run_thread, run) == 0;
    pthread_attr_destroy(&attributes);
    return begun;
}

bool run_until(void (*function)(gpointer data), gpointer data, GDestroyNotify free_data,
               gint64 deadline, bool *ret_begun)
{
    Run *run = g_new0(Run, 1);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&run->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&run->lock, NULL);
    run->function = function;
    run->data = data;
    run->free_data = free_data;

    bool begun = begin(run);
    if (ret_begun)
        *ret_begun = begun;
    if (!begun) {
        free_data(data);
        run_free(run);
        return false;
    }

    struct timespec until = {.tv_sec = deadline / G_USEC_PER_SEC,
                             .tv_nsec = deadline % G_USEC_PER_SEC * 1000};
    pthread_mutex_lock(&run->lock);
    while (!run->done && pthread_cond_timedwait(&run->changed, &run->lock, &until) == 0)
        ;
    bool done = run->done;
    if (!done) {
        run->abandoned = true;
        atomic_fetch_add(&abandoned_count, 1);
    }
    pthread_mutex_unlock(&run->lock);
    if (done)
        run_free(run);
    return done;
}
