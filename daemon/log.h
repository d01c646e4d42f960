/* The log: one line on stderr for each message of g_warning, g_message, g_info and g_debug, with
 * the level in front as the journal wants it when it is the journal that reads. Any thread. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

#include <glib.h>
#include <stdbool.h>

bool log_level_parse(const char *name, GLogLevelFlags *ret_level);

/* least: the least important level that is shown. Before any thread is started. */
void log_start(GLogLevelFlags least);

#endif
