/* `nbdctl bitmap map DISK NAME`: fetches a bitmap's dirty ranges and draws them (map_picture.h). */
#ifndef CTL_MAP_H
#define CTL_MAP_H

#include "ctl/commands.h"

extern const CliMethod map_method;
bool map_run(const Context *context, const CliMethod *method, const Json *params, GError **error);

#endif
