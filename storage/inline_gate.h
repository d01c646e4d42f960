/* Decides whether I/O on a disk may be done inline, on a thread that has other things to do.
 *
 * Buffered writes (and reads of file systems without RWF_NOWAIT) cannot be asked beforehand
 * whether they would wait. They are tried and timed: when slow ones come often, the gate closes for
 * a while, and for longer each time until inline I/O proves quick again. One slow one among many
 * quick ones is a thread that was preempted, or waited for a preempted thread's lock on the file:
 * to send I/O elsewhere then would make a busy machine busier. Any thread. */
#ifndef STORAGE_INLINE_GATE_H
#define STORAGE_INLINE_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    _Atomic int64_t closed_until; /* CLOCK_MONOTONIC, nanoseconds */
    _Atomic int64_t slow_until;   /* end of the last slow one; what began before belongs to it */
    _Atomic uint32_t slow;        /* how often in a row it closed */
    _Atomic uint32_t quick;       /* quick ones since the last slow one */
} InlineGate;

/* Nanoseconds of CLOCK_MONOTONIC. */
int64_t inline_gate_now(void);
bool inline_gate_is_open(const InlineGate *gate, int64_t now);
/* I/O of that many bytes took from start to end. */
void inline_gate_report(InlineGate *gate, int64_t start, int64_t end, size_t bytes);

#endif
