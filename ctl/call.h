/* `nbdctl call METHOD [key=value...|JSON|-]`: any method, with what is written in JSON where the
 * words do not say it all. Prints the result as JSON. */
#ifndef CTL_CALL_H
#define CTL_CALL_H

#include "ctl/commands.h"

extern const CliMethod call_method;
bool call_run(const Context *context, const CliMethod *method, const Json *params, GError **error);

/* The params of the called method from the words behind it. known: its row, or NULL. */
char *call_params(const CliMethod *known, const Json *words, GError **error);

#endif
