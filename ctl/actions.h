/* The actions of a transaction as people and scripts write them. */
#ifndef CTL_ACTIONS_H
#define CTL_ACTIONS_H

#include <glib.h>
#include <stdbool.h>

/* Appends the actions that text stands for, JSON objects with commas between them:
 *   [{"method": "bitmap.add", "params": {...}}, ...] or one such object
 *   bitmap add vm1 b0              a command of nbdctl, in one word of the shell
 *   @FILE, FILE, - (stdin)         a file of either: JSON, or one command a line (# comments)
 * Errors: CTL_USAGE. */
bool actions_append(GString *out, const char *label, const char *text, GError **error);

#endif
