/* Only in builds with -DNBDD_FAULTS. */
#include "storage/fault.h"
#include <stdlib.h>
#include <string.h>

bool (*fault_schedule)(const char *name) = fault_is_on;

bool fault_is_on(const char *name)
{
    const char *on = getenv("NBDD_FAULT");
    return on && strcmp(on, name) == 0;
}

bool fault(const char *name)
{
    return fault_schedule(name);
}
