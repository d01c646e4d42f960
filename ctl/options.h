/* The flags that every command takes, wherever they stand on the line. */
#ifndef CTL_OPTIONS_H
#define CTL_OPTIONS_H

#include "schema/cli.h"
#include <glib.h>
#include <stdbool.h>

typedef struct Options {
    const char *socket;     /* of --socket; NULL: the default */
    double timeout_seconds; /* of --timeout; 0: wait as long as it takes */
    bool json, help, version;
} Options;

/* Described like the schema's parameters, for help and suggestions; ends with name NULL. */
extern const CliField option_fields[];

/* The flag of these that is nearest to name, or NULL. */
const char *options_suggest(const char *name);

/* Takes words[*at] if it is one of them, together with its value, and moves *at behind it.
 * False with *error unset: it is none of them. words ends with NULL. */
bool options_take(Options *options, char **words, int *at, GError **error);

#endif
