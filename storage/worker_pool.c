/* A pool of threads. Which job runs next is the fair queue's to say; what it has let through is
 * `ready`, never more than there may be threads, and each ready job has one at once.
 *
 * Threads are started when a job finds none idle, up to the bound, and end after IDLE_SECONDS
 * without work, so that an idle daemon keeps none. A thread that ends leaves its handle in
 * `ended`, to be joined by whoever passes next: nobody waits for it longer than its last few
 * instructions take.
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
    bool closing;
    GArray *ended; /* of pthread_t, to be joined */
};

static bool wait_for_job(WorkerPool *pool, const struct timespec *until)
{
    int result = 0;

    pool->waiting++;
    while (pool->head == NULL && !pool->closing && result != ETIMEDOUT) {
        result = pthread_cond_timedwait(&pool->work, &pool->lock, until);
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

/* Makes ready what may run now, and calls threads for it; hands: threads that are about to take
 * one anyway. Answers how many have to be started. */
static unsigned let_through(WorkerPool *pool, unsigned hands)
{
    unsigned start = 0, passed = 0;
    EngineJob *job;

    for (; (job = fair_queue_next(pool->queue)) != NULL; passed++) {
        job->next = NULL;
        *pool->tail = job;
        pool->tail = &job->next;
        pool->ready++;
    }
    for (unsigned i = hands; i < passed; i++) {
        if (pool->waiting > 0) {
            pthread_cond_signal(&pool->work);
        }
        if (pool->ready > pool->waiting + hands + start && pool->threads < pool->max_threads) {
            pool->threads++;
            start++;
        }
    }
    return start;
}

/* Runs the job that is ready first, without the lock. Answers as let_through does. */
static unsigned run_first(WorkerPool *pool, unsigned hands)
{
    EngineJob *job = pop(pool);
    const void *owner = job->owner;

    pthread_mutex_unlock(&pool->lock);
    job->run(job);
    pthread_mutex_lock(&pool->lock);
    fair_queue_ended(pool->queue, owner);
    return let_through(pool, hands);
}

static void start_threads(WorkerPool *pool, unsigned count);

static void *worker(void *data)
{
    WorkerPool *pool = data;
    pthread_t self = pthread_self();

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct timespec until;
        unsigned start;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += IDLE_SECONDS;
        if (!wait_for_job(pool, &until)) {
            break;
        }
        start = run_first(pool, 1);
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

/* Signals belong to the main thread: no system call of a job is ever cut short by one. */
static bool start_thread(WorkerPool *pool)
{
    sigset_t all, before;
    pthread_t thread;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&thread, &pool->attributes, worker, pool);
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

/* No thread could be started: whoever still runs takes what is ready; if nobody does, this thread
 * has to. */
static void run_stranded(WorkerPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->threads--;
    while (pool->threads == 0 && pool->head != NULL) {
        run_first(pool, G_MAXUINT); /* all of them are this thread's */
    }
    pthread_mutex_unlock(&pool->lock);
}

static void start_threads(WorkerPool *pool, unsigned count)
{
    for (; count > 0; count--) {
        if (!start_thread(pool)) {
            run_stranded(pool);
        }
    }
}

WorkerPool *worker_pool_new(unsigned max_threads)
{
    WorkerPool *pool = g_new0(WorkerPool, 1);
    pthread_condattr_t clock;

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
