/* Waiting for what another thread does. */
#ifndef UNIT_COMES_H
#define UNIT_COMES_H

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <time.h>

/* A time that is only ever used up by a failure: however busy the machine is. */
#define COMES_USEC (30 * G_USEC_PER_SEC)

/* Whether it came within that time. The clock of the day, which alone semaphores know, may be set
 * meanwhile: it is asked for short times, and the other clock tells when it is over. */
static inline bool comes(sem_t *semaphore)
{
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    int result;

    do {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        result = sem_timedwait(semaphore, &until);
    } while (result != 0 && (errno == EINTR || errno == ETIMEDOUT) && g_get_monotonic_time() < end);
    return result == 0;
}

/* Whether the thread ends within that time; it is joined then. */
static inline bool ends(pthread_t thread, void **ret_result)
{
    gint64 end = g_get_monotonic_time() + COMES_USEC;
    int result;

    while ((result = pthread_tryjoin_np(thread, ret_result)) == EBUSY &&
           g_get_monotonic_time() < end)
        g_usleep(1000);
    return result == 0;
}

#endif
