/* `nbdctl __names NOUN [DISK]`: names for shell completion, one a line. Never says anything else,
 * never waits long. */
#ifndef CTL_NAMES_H
#define CTL_NAMES_H

#include "ctl/commands.h"

extern const CliMethod names_method;
bool names_run(const Context *context, const CliMethod *method, const Json *params, GError **error);

#endif
