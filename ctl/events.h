/* `nbdctl event subscribe`: prints events as they come, until interrupted. */
#ifndef CTL_EVENTS_H
#define CTL_EVENTS_H

#include "ctl/commands.h"

bool events_run(const Context *context, const CliMethod *method, const Json *params,
                GError **error);

#endif
