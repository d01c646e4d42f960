/* A call as its handler sees it: who calls, and what it may do. No JSON in it.
 *
 * A Call lives on the stack of the thread that runs the handler, from before its decoding until
 * its answer has been encoded; nothing keeps it longer. Its connection may be gone meanwhile: the
 * answer is then dropped. */
#ifndef CONTROL_CALL_H
#define CONTROL_CALL_H

#include "schema/api.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

Registry *call_registry(const Call *call);
ApiAccess call_access(const Call *call);
uid_t call_uid(const Call *call); /* of the process that connected */
pid_t call_pid(const Call *call);

#endif
