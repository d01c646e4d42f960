/* A pool of threads. Which job runs next is the fair queue's to say; what it has let through is
 * `ready`, never more than there may be threads, and each ready job has one at once.
 *
 * Threads are started when a job finds none idle, up to the bound, and end after IDLE_SECONDS
 * without work, all but the last. That one is there from the start, so that jobs have a thread
 * where no more can be started: whoever submits must never run them, because a job may wait for
 * just that thread (a direct write for one that is on its ring, any write for the store's). A
 * thread that ends leaves its handle in `ended`, to be joined by whoever passes next: nobody waits
 * for it longer than its last few instructions take.
 *
 * Lock: `lock` guards everything below it; it is never held while a job runs. */
#include "storage/worker_pool.h"
#include "storage/fair_queue.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

#define IDLE_SECONDS 5
/* Jobs are shallow; the kernel only backs what is touched. */
#define STACK_BYTES (512 * 1024)

struct WorkerPool {
    unsigned max_threads;
    pthread_attr_t attributes;

    pthread_mutex_t lock;
    pthread_cond_t work;    /* a job is ready, or the pool is closing */
    pthread_cond_t drained; /* the last thread has ended */
    FairQueue *queue;
    EngineJob *head, **tail; /* that are ready */
    unsigned ready;          /* of them */
    unsigned waiting;        /* threads that wait for one */
    unsigned threads;
    unsigned starting; /* of them, not there yet */
    bool closing;
    GArray *ended; /* of pthread_t, to be joined */
};

/* Those that are being started do not count: it may fail. */
static bool is_last(const WorkerPool *pool)
{
    return pool->threads - pool->starting == 1;
}

static bool wait_for_job(WorkerPool *pool, const struct timespec *until)
{
    int result = 0;

    pool->waiting++;
    while (pool->head == NULL && !pool->closing && (result != ETIMEDOUT || is_last(pool))) {
        result = is_last(pool) ? pthread_cond_wait(&pool->work, &pool->lock)
                               : pthread_cond_timedwait(&pool->work, &pool->lock, until);
    }
    pool->waiting--;
    return pool->head != NULL;
}

static EngineJob *pop(WorkerPool *pool)
{
    EngineJob *job = pool->head;

    pool->head = job->next;
    if (pool->head == NULL) {
        pool->tail = &pool->head;
    }
    pool->ready--;
    return job;
}

/* Counts the threads that ready jobs still need as starting, and answers how many they are; hands:
 * threads that are about to take a job anyway. */
static unsigned count_missing(WorkerPool *pool, unsigned hands)
{
    unsigned coming = pool->waiting + pool->starting + hands;
    unsigned missing = pool->ready > coming ? pool->ready - coming : 0;

    missing = MIN(missing, pool->max_threads - pool->threads);
    pool->threads += missing;
    pool->starting += missing;
    return missing;
}

/* Makes ready what may run now, and calls threads for it. Answers how many have to be started. */
static unsigned let_through(WorkerPool *pool, unsigned hands)
{
    unsigned passed = 0;
    EngineJob *job;

    for (; (job = fair_queue_next(pool->queue)) != NULL; passed++) {
        job->next = NULL;
        *pool->tail = job;
        pool->tail = &job->next;
        pool->ready++;
    }
    for (unsigned i = hands; i < passed && pool->waiting > 0; i++) {
        pthread_cond_signal(&pool->work);
    }
    return count_missing(pool, hands);
}

/* Runs the job that is ready first, without the lock. Answers as let_through does. */
static unsigned run_first(WorkerPool *pool)
{
    EngineJob *job = pop(pool);
    const void *owner = job->owner;

    pthread_mutex_unlock(&pool->lock);
    job->run(job);
    pthread_mutex_lock(&pool->lock);
    fair_queue_ended(pool->queue, owner);
    return let_through(pool, 1);
}

static int start_threads(WorkerPool *pool, unsigned count);

static void *worker(void *data)
{
    WorkerPool *pool = data;
    pthread_t self = pthread_self();

    pthread_mutex_lock(&pool->lock);
    pool->starting--;
    for (;;) {
        struct timespec until;
        unsigned start;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += IDLE_SECONDS;
        if (!wait_for_job(pool, &until)) {
            break;
        }
        start = run_first(pool);
        if (start > 0) {
            pthread_mutex_unlock(&pool->lock);
            start_threads(pool, start);
            pthread_mutex_lock(&pool->lock);
        }
    }
    g_array_append_val(pool->ended, self);
    if (--pool->threads == 0) {
        pthread_cond_broadcast(&pool->drained);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Signals belong to the main thread: no system call of a job is ever cut short by one. Answers 0
 * or an errno. */
static int start_thread(WorkerPool *pool)
{
    sigset_t all, before;
    pthread_t thread;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&thread, &pool->attributes, worker, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static void join_all(GArray *ended)
{
    for (guint i = 0; i < ended->len; i++) {
        pthread_join(g_array_index(ended, pthread_t, i), NULL);
    }
    g_array_unref(ended);
}

/* Counted as starting. Where it fails, those that are there take what is ready, one after the
 * other, until more can be started. Answers 0 or an errno. */
static int start_threads(WorkerPool *pool, unsigned count)
{
    int result = 0;

    while (count > 0 && (result = start_thread(pool)) == 0) {
        count--;
    }
    if (count > 0) {
        pthread_mutex_lock(&pool->lock);
        pool->threads -= count;
        pool->starting -= count;
        pthread_mutex_unlock(&pool->lock);
    }
    return result;
}

WorkerPool *worker_pool_new(unsigned max_threads)
{
    WorkerPool *pool = g_new0(WorkerPool, 1);
    pthread_condattr_t clock;
    int result;

    pool->max_threads = MAX(max_threads, 1);
    pool->queue = fair_queue_new(pool->max_threads);
    pool->tail = &pool->head;
    pool->ended = g_array_new(FALSE, FALSE, sizeof(pthread_t));
    pthread_attr_init(&pool->attributes);
    pthread_attr_setstacksize(&pool->attributes, STACK_BYTES);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->work, &clock);
    pthread_cond_init(&pool->drained, NULL);
    pthread_condattr_destroy(&clock);
    pool->threads = pool->starting = 1;
    result = start_threads(pool, 1);
    if (result != 0) {
        worker_pool_free(pool);
        errno = result;
        return NULL;
    }
    return pool;
}

void worker_pool_free(WorkerPool *pool)
{
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->work);
    while (pool->threads > 0) {
        pthread_cond_wait(&pool->drained, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    join_all(pool->ended);
    pthread_cond_destroy(&pool->drained);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    pthread_attr_destroy(&pool->attributes);
    fair_queue_free(pool->queue);
    g_free(pool);
}

void worker_pool_submit(WorkerPool *pool, EngineJob *job)
{
    g_autoptr(GArray) ended = NULL;
    unsigned start;

    pthread_mutex_lock(&pool->lock);
    fair_queue_push(pool->queue, job);
    start = let_through(pool, 0);
    if (pool->ended->len > 0) {
        ended = g_steal_pointer(&pool->ended);
        pool->ended = g_array_new(FALSE, FALSE, sizeof(pthread_t));
    }
    pthread_mutex_unlock(&pool->lock);

    if (ended != NULL) {
        join_all(g_steal_pointer(&ended));
    }
    start_threads(pool, start);
}

void worker_pool_catch_up(WorkerPool *pool)
{
    unsigned start;

    pthread_mutex_lock(&pool->lock);
    start = count_missing(pool, 0);
    pthread_mutex_unlock(&pool->lock);
    start_threads(pool, start);
}
