/* Every command that nbdctl knows: the schema's methods, and its own. */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include "ctl/json.h"
#include "ctl/options.h"
#include "ctl/terminal.h"
#include "schema/cli.h"
#include <stdbool.h>

/* What a command runs with. */
typedef struct Context {
    const Options *options;
    const Terminal *terminal;
} Context;

/* params: the object that the arguments made; it fits command->method's parameters in form. */
typedef bool (*CommandRun)(const Context *context, const CliMethod *method, const Json *params,
                           GError **error);

typedef struct Command {
    const CliMethod *method;
    CommandRun run;
} Command;

/* Finds the command that words begin with and says how many of them name it: 1 (`stats`) or 2
 * (`disk add`). NULL with CTL_USAGE: unknown, with a suggestion, or incomplete. */
const Command *command_find(char *const *words, int *ret_used, GError **error);

bool command_is_noun(const char *word);

/* Calls visit for every command, by noun and verb; noun NULL: all of them. */
typedef void (*CommandVisit)(const Command *command, gpointer data);
void command_each(const char *noun, CommandVisit visit, gpointer data);

/* "disk add" */
char *command_title(const CliMethod *method);

#endif
