/* From the words of the command line to the command that is run. */
#ifndef CTL_COMMAND_LINE_H
#define CTL_COMMAND_LINE_H

#include "ctl/terminal.h"
#include <stdbool.h>

/* words: without the program's name, ends with NULL. */
bool command_line_run(const Terminal *terminal, char **words, GError **error);

#endif
