/* Help for people: all commands, those of a noun, one command. From the command tables alone. */
#ifndef CTL_HELP_H
#define CTL_HELP_H

#include "ctl/commands.h"

/* `nbdctl help [NOUN [VERB]]` */
extern const CliMethod help_method;
bool help_run(const Context *context, const CliMethod *method, const Json *params, GError **error);

/* "nbdctl disk add NAME PATH [--read-only] [--cache writeback|direct] ..." on one line. */
char *help_usage(const CliMethod *method);

/* words: none, a noun, or noun and verb; ends with NULL. CTL_USAGE when there is no such command.
 */
bool help_append(GString *out, const Terminal *terminal, char *const *words, GError **error);

#endif
