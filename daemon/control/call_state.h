/* What a Call is made of: for dispatch.c and the methods of the control plane itself. */
#ifndef CONTROL_CALL_STATE_H
#define CONTROL_CALL_STATE_H

#include "daemon/control/call.h"
#include "daemon/control/dispatch.h"

struct Call {
    const Dispatcher *dispatcher;
    Caller caller;
    Effects *effects;
};

#endif
