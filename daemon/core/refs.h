/* Reference counts. GLib's do the same, but ThreadSanitizer does not see into GLib, and takes the
 * last unref for a race. */
#ifndef CORE_REFS_H
#define CORE_REFS_H

#include <stdatomic.h>
#include <stdbool.h>

typedef atomic_uint RefCount;

static inline void refs_init(RefCount *refs)
{
    atomic_init(refs, 1);
}

static inline void refs_take(RefCount *refs)
{
    atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

/* True: that was the last one. */
static inline bool refs_drop(RefCount *refs)
{
    return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

#endif
