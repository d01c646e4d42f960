/* The command line of nbdd, with what the environment adds to it. */
#ifndef DAEMON_OPTIONS_H
#define DAEMON_OPTIONS_H

#include "daemon/core/limits.h"
#include "storage/engine.h"
#include "storage/store.h"
#include <glib.h>
#include <stdbool.h>

typedef struct {
    char *state_dir, *socket;
    char *runtime_dir; /* of the default control socket; the same at every start */
    char **listen;     /* addresses, NULL-terminated; NULL: none */
    char **access;     /* LEVEL=WHO, NULL-terminated; NULL: none */
    char *socket_group;
    GLogLevelFlags log_level; /* the least important level that is shown */
    EngineKind engine;
    bool show_version;
    Limits limits;
    StoreOptions store;
} Options;

/* Errors (G_OPTION_ERROR) are one line for stderr. --help prints and exits. */
bool options_parse(Options *options, int argc, char **argv, GError **error);
void options_clear(Options *options);

#endif
