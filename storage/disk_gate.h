/* A disk's gate: every change of contents passes it, and is counted while it is inside. Closing it
 * makes an instant of the write stream: what came before has finished, what comes after waits.
 *
 * Passing an open gate is two atomic additions. The count lies where the owner says, so that it
 * can be seen in a mapped page after the process has died (disk_page.h). */
#ifndef STORAGE_DISK_GATE_H
#define STORAGE_DISK_GATE_H

#include "storage/disk.h"
#include <pthread.h>
#include <stdatomic.h>

#define GATE_CLOSED (UINT64_C(1) << 63)

typedef struct {
    _Atomic uint64_t *state; /* how many are inside, and GATE_CLOSED */
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* emptied, or opened */
    DiskWaiter *waiters;    /* for its opening */
} DiskGate;

void gate_init(DiskGate *gate, _Atomic uint64_t *state);
void gate_clear(DiskGate *gate);

/* Returns when the gate is open, or was for a moment. */
void gate_wait(DiskGate *gate);
/* Once the gate opens, waiter->ready runs. False: it is open already, and will not. */
bool gate_notify(DiskGate *gate, DiskWaiter *waiter);

/* Keeps new ones out and waits until nobody is inside. False when the deadline
 * (g_get_monotonic_time()) came first: the gate is open again. Callers take turns. */
bool gate_close(DiskGate *gate, gint64 deadline);
void gate_open(DiskGate *gate);

void gate_emptied(DiskGate *gate); /* gate_leave's */

static inline void gate_leave(DiskGate *gate)
{
    if (atomic_fetch_sub(gate->state, 1) == (GATE_CLOSED | 1))
        gate_emptied(gate);
}

/* False: it is closed, and nobody entered. */
static inline bool gate_enter(DiskGate *gate)
{
    if (!(atomic_fetch_add(gate->state, 1) & GATE_CLOSED))
        return true;
    gate_leave(gate);
    return false;
}

/* For what the one who has closed it does to the file himself. gate_leave() ends it. */
static inline void gate_enter_closed(DiskGate *gate)
{
    atomic_fetch_add(gate->state, 1);
}

/* Runs all of a list of waiters, each once. */
void disk_waiters_run(DiskWaiter *list);

#endif
