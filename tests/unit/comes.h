/* Waiting for what another thread does. */
#ifndef UNIT_COMES_H
#define UNIT_COMES_H

#include <errno.h>
#include <semaphore.h>
#include <stdbool.h>
#include <time.h>

/* Whether it came within a time that is only ever used up by a failure. */
static inline bool comes(sem_t *semaphore)
{
    struct timespec until;
    int result;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    do {
        result = sem_timedwait(semaphore, &until);
    } while (result != 0 && errno == EINTR);
    return result == 0;
}

#endif
