/* What could not be opened at the start is tried again, at growing intervals: a listener whose
 * address is not there yet or somebody else's for a while, a disk whose file is locked. (A process
 * that was killed keeps its locks until its last writes have landed, which takes as long as its
 * storage does.) */
#ifndef DAEMON_RETRY_H
#define DAEMON_RETRY_H

#include "daemon/core/registry.h"

typedef struct Retry Retry;

/* Main thread, as the others. NULL when there is nothing to do. */
Retry *retry_start(Registry *registry);
void retry_stop(Retry *retry); /* takes NULL; an attempt may still run */
void retry_free(Retry *retry); /* takes NULL; stopped, and no call is left behind (blocking.h) */

#endif
