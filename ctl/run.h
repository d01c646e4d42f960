/* Runs a method of the schema: calls it, follows its pages, prints the answer. */
#ifndef CTL_RUN_H
#define CTL_RUN_H

#include "ctl/commands.h"

bool run_method(const Context *context, const CliMethod *method, const Json *params,
                GError **error);

/* The params with one member more, or another value for it; value is a JSON text. */
char *run_params_with(const Json *params, const char *name, const char *value);

#endif
