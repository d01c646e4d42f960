#include "storage/inline_gate.h"
#include <stdatomic.h>
#include <time.h>

/* Copying is not waiting: a quarter of a nanosecond a byte is quick memory, two are slow. */
#define SLOW_NS          1000000
#define SLOW_NS_PER_BYTE 2
#define CLOSED_NS        10000000 /* after the first slow one; doubles up to 2^7 times as much */
#define CLOSED_DOUBLINGS 7
#define QUICK_TO_FORGIVE 64
#define ENDLESS_NS       50000000 /* preempted threads do not take so long */

int64_t inline_gate_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool inline_gate_is_open(const InlineGate *gate, int64_t now)
{
    return now >= atomic_load_explicit(&gate->closed_until, memory_order_relaxed);
}

void inline_gate_report(InlineGate *gate, int64_t start, int64_t end, size_t bytes)
{
    int64_t limit = SLOW_NS + (int64_t)bytes * SLOW_NS_PER_BYTE;
    bool endless = end - start > limit + ENDLESS_NS;
    uint32_t slow, quick;

    if (end - start <= limit) {
        atomic_fetch_add_explicit(&gate->quick, 1, memory_order_relaxed);
        return;
    }
    if (start < atomic_load_explicit(&gate->slow_until, memory_order_relaxed) && !endless) {
        return;
    }
    atomic_store_explicit(&gate->slow_until, end, memory_order_relaxed);
    quick = atomic_exchange_explicit(&gate->quick, 0, memory_order_relaxed);
    if (quick >= QUICK_TO_FORGIVE) {
        atomic_store_explicit(&gate->slow, 0, memory_order_relaxed);
        if (!endless) {
            return;
        }
    }
    slow = atomic_load_explicit(&gate->slow, memory_order_relaxed);
    atomic_store_explicit(&gate->closed_until, end + ((int64_t)CLOSED_NS << slow),
                          memory_order_relaxed);
    if (slow < CLOSED_DOUBLINGS) {
        atomic_store_explicit(&gate->slow, slow + 1, memory_order_relaxed);
    }
}
