/* A pool of threads that take jobs from one queue.
 *
 * Threads are started when a job finds none idle, up to the bound, and end after IDLE_SECONDS
 * without work, so that an idle daemon keeps none. A thread that ends leaves its handle in
 * `ended`, to be joined by whoever passes next: nobody waits for it longer than its last few
 * instructions take.
 *
 * Lock: `lock` guards everything below it; it is never held while a job runs. */
#include "storage/engine.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

#define IDLE_SECONDS 5
/* Jobs are shallow; the kernel only backs what is touched. */
#define STACK_BYTES (512 * 1024)

struct Engine {
    unsigned max_threads;
    pthread_attr_t attributes;

    pthread_mutex_t lock;
    pthread_cond_t work;    /* a job was queued, or the engine is closing */
    pthread_cond_t drained; /* the last thread has ended */
    EngineJob *head, **tail;
    unsigned queued;  /* jobs waiting */
    unsigned waiting; /* threads that wait for one */
    unsigned threads;
    bool closing;
    GArray *ended; /* of pthread_t, to be joined */
};

static bool wait_for_job(Engine *engine, const struct timespec *until)
{
    int result = 0;

    engine->waiting++;
    while (engine->head == NULL && !engine->closing && result != ETIMEDOUT) {
        result = pthread_cond_timedwait(&engine->work, &engine->lock, until);
    }
    engine->waiting--;
    return engine->head != NULL;
}

static EngineJob *pop(Engine *engine)
{
    EngineJob *job = engine->head;

    engine->head = job->next;
    if (engine->head == NULL) {
        engine->tail = &engine->head;
    }
    engine->queued--;
    return job;
}

static void *worker(void *data)
{
    Engine *engine = data;
    pthread_t self = pthread_self();

    pthread_mutex_lock(&engine->lock);
    for (;;) {
        struct timespec until;
        EngineJob *job;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += IDLE_SECONDS;
        if (!wait_for_job(engine, &until)) {
            break;
        }
        job = pop(engine);
        pthread_mutex_unlock(&engine->lock);
        job->run(job);
        pthread_mutex_lock(&engine->lock);
    }
    g_array_append_val(engine->ended, self);
    if (--engine->threads == 0) {
        pthread_cond_broadcast(&engine->drained);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

/* Signals belong to the main thread: no system call of a job is ever cut short by one. */
static bool start_thread(Engine *engine)
{
    sigset_t all, before;
    pthread_t thread;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&thread, &engine->attributes, worker, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result == 0;
}

static void join_all(GArray *ended)
{
    for (guint i = 0; i < ended->len; i++) {
        pthread_join(g_array_index(ended, pthread_t, i), NULL);
    }
    g_array_unref(ended);
}

/* No thread could be started: whoever still runs takes what is queued; if nobody does, this thread
 * has to. */
static void run_stranded(Engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    engine->threads--;
    while (engine->threads == 0 && engine->head != NULL) {
        EngineJob *job = pop(engine);

        pthread_mutex_unlock(&engine->lock);
        job->run(job);
        pthread_mutex_lock(&engine->lock);
    }
    pthread_mutex_unlock(&engine->lock);
}

Engine *engine_new(unsigned max_threads)
{
    Engine *engine = g_new0(Engine, 1);
    pthread_condattr_t clock;

    engine->max_threads = MAX(max_threads, 1);
    engine->tail = &engine->head;
    engine->ended = g_array_new(FALSE, FALSE, sizeof(pthread_t));
    pthread_attr_init(&engine->attributes);
    pthread_attr_setstacksize(&engine->attributes, STACK_BYTES);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&engine->work, &clock);
    pthread_cond_init(&engine->drained, NULL);
    pthread_condattr_destroy(&clock);
    return engine;
}

void engine_free(Engine *engine)
{
    if (engine == NULL) {
        return;
    }
    pthread_mutex_lock(&engine->lock);
    engine->closing = true;
    pthread_cond_broadcast(&engine->work);
    while (engine->threads > 0) {
        pthread_cond_wait(&engine->drained, &engine->lock);
    }
    pthread_mutex_unlock(&engine->lock);
    join_all(engine->ended);
    pthread_cond_destroy(&engine->drained);
    pthread_cond_destroy(&engine->work);
    pthread_mutex_destroy(&engine->lock);
    pthread_attr_destroy(&engine->attributes);
    g_free(engine);
}

void engine_submit(Engine *engine, EngineJob *job)
{
    g_autoptr(GArray) ended = NULL;
    bool start = false;

    job->next = NULL;
    pthread_mutex_lock(&engine->lock);
    *engine->tail = job;
    engine->tail = &job->next;
    engine->queued++;
    if (engine->queued > engine->waiting && engine->threads < engine->max_threads) {
        start = true;
        engine->threads++;
    }
    if (engine->waiting > 0) {
        pthread_cond_signal(&engine->work);
    }
    if (engine->ended->len > 0) {
        ended = g_steal_pointer(&engine->ended);
        engine->ended = g_array_new(FALSE, FALSE, sizeof(pthread_t));
    }
    pthread_mutex_unlock(&engine->lock);

    if (ended != NULL) {
        join_all(g_steal_pointer(&ended));
    }
    if (start && !start_thread(engine)) {
        run_stranded(engine);
    }
}

const char *engine_name(const Engine *engine)
{
    return "threads";
}
