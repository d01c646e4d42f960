/* From the words behind a command to the JSON object of its parameters, by the command's table:
 *   positionals in order, the last one may be a list;  any parameter also as a flag
 *   --flag VALUE, --flag=VALUE; a list is the flag repeated, `--flag ''` the empty list
 *   --flag and --no-flag for booleans;  --no-flag, or the word null, for null where that is allowed
 *   `--` ends the flags. */
#ifndef CTL_ARGS_H
#define CTL_ARGS_H

#include "ctl/options.h"
#include "schema/cli.h"
#include <glib.h>

/* words ends with NULL. Flags of every command go to options (NULL: there are none, as in the
 * actions of a transaction). The answer is a JSON text on one line; NULL with CTL_USAGE. When
 * options->help was met, what is missing is not asked for. */
char *args_parse(const CliMethod *method, char **words, Options *options, GError **error);

#endif
