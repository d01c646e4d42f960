/* Parameters and members, and what they are called on the command line. */
#ifndef CTL_FIELD_H
#define CTL_FIELD_H

#include "schema/cli.h"
#include <glib.h>

/* The field of that name, or NULL. fields ends with name NULL. */
const CliField *field_find(const CliField *fields, const char *name);

/* "NAME", of a list "SOURCE"; as a flag "--read-only". */
char *field_label(const CliField *field, bool as_flag);

/* What stands in usage lines: "NAME", "SOURCE...", "--read-only", "--cache writeback|direct". */
char *field_term(const CliField *field);

#endif
