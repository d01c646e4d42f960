/* Seeded faults: places where tests break the promise on purpose, to prove that they would notice.
 *
 * `if (fault("name"))` is the wrong thing to do. In a build with -DNBDD_FAULTS the environment's
 * NBDD_FAULT names the one that is on; in any other it is the word false, and costs nothing. What
 * each of them breaks, and who catches it, is in tests/crash/faults.py. */
#ifndef STORAGE_FAULT_H
#define STORAGE_FAULT_H

#include <stdbool.h>

#ifdef NBDD_FAULTS
bool fault(const char *name);
/* Set by a test before it starts threads: is asked at every site that is passed, may wait there to
 * bring about a schedule, and answers what fault() does. */
extern bool (*fault_schedule)(const char *name);
/* What the environment says. */
bool fault_is_on(const char *name);
#else
#define fault(name) false
#endif

#endif
