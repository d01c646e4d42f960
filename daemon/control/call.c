#include "daemon/control/call_state.h"

Registry *call_registry(const Call *call)
{
    return call->dispatcher->registry;
}

ApiAccess call_access(const Call *call)
{
    return call->caller.access;
}

uid_t call_uid(const Call *call)
{
    return call->caller.uid;
}

pid_t call_pid(const Call *call)
{
    return call->caller.pid;
}
