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

bool blocking_left_behind(void)
{
    return atomic_load(&abandoned_count) > 0;
}

bool blocking_left_behind_until(gint64 deadline)
{
    while (blocking_left_behind() && g_get_monotonic_time() < deadline)
        g_usleep(5000);
    return blocking_left_behind();
}

static void init_monotonic(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

static struct timespec timespec_of(gint64 deadline)
{
    return (struct timespec){.tv_sec = deadline / G_USEC_PER_SEC,
                             .tv_nsec = deadline % G_USEC_PER_SEC * 1000};
}

static bool start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    bool started = pthread_create(&thread, &attributes, function, argument) == 0;
    pthread_attr_destroy(&attributes);
    return started;
}

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

bool run_until(void (*function)(gpointer data), gpointer data, GDestroyNotify free_data,
               gint64 deadline, bool *ret_begun)
{
    Run *run = g_new0(Run, 1);
    init_monotonic(&run->changed);
    pthread_mutex_init(&run->lock, NULL);
    run->function = function;
    run->data = data;
    run->free_data = free_data;

    bool begun =
        atomic_load(&abandoned_count) < BLOCKING_MAX_ABANDONED && start_thread(run_thread, run);
    if (ret_begun)
        *ret_begun = begun;
    if (!begun) {
        free_data(data);
        run_free(run);
        return false;
    }

    struct timespec until = timespec_of(deadline);
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

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GPtrArray *items;
    void (*function)(gpointer item, gpointer data);
    gpointer data;
    guint next;       /* the first item that nobody has taken */
    unsigned threads; /* that run */
    bool abandoned;
} Batch;

static void batch_free(Batch *batch)
{
    g_ptr_array_unref(batch->items);
    pthread_cond_destroy(&batch->changed);
    pthread_mutex_destroy(&batch->lock);
    g_free(batch);
}

static void work_off(Batch *batch)
{
    pthread_mutex_lock(&batch->lock);
    while (batch->next < batch->items->len) {
        gpointer item = batch->items->pdata[batch->next++];
        pthread_mutex_unlock(&batch->lock);
        batch->function(item, batch->data);
        pthread_mutex_lock(&batch->lock);
    }
    pthread_mutex_unlock(&batch->lock);
}

static void *batch_thread(void *argument)
{
    Batch *batch = argument;
    work_off(batch);
    pthread_mutex_lock(&batch->lock);
    bool last = --batch->threads == 0 && batch->abandoned;
    pthread_cond_signal(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
    if (last) {
        batch_free(batch);
        atomic_fetch_sub(&abandoned_count, 1);
    }
    return NULL;
}

bool run_all_until(GPtrArray *items, void (*function)(gpointer item, gpointer data), gpointer data,
                   unsigned threads, gint64 deadline)
{
    if (items->len == 0)
        return true;
    Batch *batch = g_new0(Batch, 1);
    pthread_mutex_init(&batch->lock, NULL);
    init_monotonic(&batch->changed);
    batch->items = g_ptr_array_ref(items);
    batch->function = function;
    batch->data = data;

    struct timespec until = timespec_of(deadline);
    pthread_mutex_lock(&batch->lock);
    while (batch->threads < MIN(threads, items->len) && start_thread(batch_thread, batch))
        batch->threads++;
    bool none = batch->threads == 0, in_time = true;
    while (batch->threads > 0 && in_time)
        in_time = pthread_cond_timedwait(&batch->changed, &batch->lock, &until) == 0;
    bool done = batch->threads == 0;
    if (!done) {
        batch->abandoned = true;
        atomic_fetch_add(&abandoned_count, 1);
    }
    pthread_mutex_unlock(&batch->lock);
    if (none)
        work_off(batch); /* no thread to be had: better slowly than not at all */
    if (done)
        batch_free(batch);
    return done;
}
