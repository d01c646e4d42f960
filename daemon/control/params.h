/* A request's parameters as json-c's values. */
#ifndef CONTROL_PARAMS_H
#define CONTROL_PARAMS_H

#include "daemon/control/scan.h"
#include <json-c/json.h>

/* Text that has passed the scanner; the value is the caller's. False: there is no memory for it. */
bool params_parse(Slice text, struct json_object **ret_value);

#endif
