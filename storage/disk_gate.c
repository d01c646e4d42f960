/* The slow half of a disk's gate. */
#include "storage/disk_gate.h"
#include "storage/fault.h"
#include <errno.h>
#include <time.h>

void gate_init(DiskGate *gate, _Atomic uint64_t *state)
{
    *gate = (DiskGate){.state = state};
    atomic_store(state, 0);
    pthread_mutex_init(&gate->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&gate->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void gate_clear(DiskGate *gate)
{
    pthread_mutex_destroy(&gate->mutex);
    pthread_cond_destroy(&gate->changed);
}

void gate_emptied(DiskGate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->mutex);
}

void gate_wait(DiskGate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    while (atomic_load(gate->state) & GATE_CLOSED)
        pthread_cond_wait(&gate->changed, &gate->mutex);
    pthread_mutex_unlock(&gate->mutex);
}

bool gate_notify(DiskGate *gate, DiskWaiter *waiter)
{
    pthread_mutex_lock(&gate->mutex);
    bool closed = atomic_load(gate->state) & GATE_CLOSED;
    if (closed) {
        waiter->next = gate->waiters;
        gate->waiters = waiter;
    }
    pthread_mutex_unlock(&gate->mutex);
    return closed;
}

bool gate_close(DiskGate *gate, gint64 deadline)
{
    struct timespec until = {deadline / G_USEC_PER_SEC, deadline % G_USEC_PER_SEC * 1000};
    int rc = 0;
    atomic_fetch_or(gate->state, GATE_CLOSED);
    pthread_mutex_lock(&gate->mutex);
    /* Once it has been empty it is: those who are turned away are counted for a moment, too. */
    bool empty;
    while (!(empty = atomic_load(gate->state) == GATE_CLOSED || fault("gate-does-not-wait")) &&
           rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&gate->changed, &gate->mutex, &until);
    pthread_mutex_unlock(&gate->mutex);
    if (!empty)
        gate_open(gate);
    return empty;
}

void gate_open(DiskGate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    atomic_fetch_and(gate->state, ~GATE_CLOSED);
    DiskWaiter *waiters = gate->waiters;
    gate->waiters = NULL;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->mutex);
    disk_waiters_run(waiters);
}

void disk_waiters_run(DiskWaiter *list)
{
    while (list) {
        DiskWaiter *next = list->next; /* ready() may free or reuse it */
        list->ready(list);
        list = next;
    }
}
