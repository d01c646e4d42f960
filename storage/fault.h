/* Seeded faults: places where the crash tests break the promise on purpose, to prove that they
 * would notice. In a build without -DNBDD_FAULTS they are constants, and cost nothing.
 *
 * `if (fault("name"))` is the wrong thing to do; the environment's NBDD_FAULT names the one that
 * is on. The list of names is in tests/crash/. */
#ifndef STORAGE_FAULT_H
#define STORAGE_FAULT_H

#include <stdbool.h>

#ifdef NBDD_FAULTS
#include <stdlib.h>
#include <string.h>

static inline bool fault(const char *name)
{
    const char *on = getenv("NBDD_FAULT");
    return on && strcmp(on, name) == 0;
}
#else
static inline bool fault(const char *name)
{
    (void)name;
    return false;
}
#endif

#endif
