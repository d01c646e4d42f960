/* One word of the command line as the JSON value of a parameter. What the word means is decided
 * here; whether the daemon likes the value (bounds, patterns) is the daemon's to say. */
#ifndef CTL_VALUE_H
#define CTL_VALUE_H

#include "schema/cli.h"
#include <glib.h>
#include <stdbool.h>

/* Appends the value of one item (of a list: of one of its items). label names the parameter as the
 * user typed it and begins the messages. Relative paths are made absolute: the daemon has another
 * working directory. Errors: CTL_USAGE. */
bool value_append(GString *out, const CliField *field, const char *label, const char *text,
                  GError **error);

#endif
