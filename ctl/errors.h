/* What can go wrong, as one GError domain whose codes are nbdctl's exit statuses; the messages are
 * ready to be printed behind "nbdctl: ". */
#ifndef CTL_ERRORS_H
#define CTL_ERRORS_H

#include "ctl/json.h"
#include "schema/cli.h"
#include <glib.h>

#define CTL_ERROR (ctl_error_quark())
GQuark ctl_error_quark(void);

/* The statuses that nbdctl itself gives; those for the daemon's errors are in the schema's error
 * files (cli_errors). */
typedef enum CtlStatus {
    CTL_DONE = 0,
    CTL_REFUSED = 1,
    CTL_UNREACHABLE = 2, /* no daemon, or what answers is none */
    CTL_USAGE = 3,
    CTL_STATE = 5,
    CTL_TIMEOUT = 7,
} CtlStatus;

void ctl_fail(GError **error, CtlStatus status, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* Turns the error object of an answer into a message that names parameters as the user typed them.
 * method: NULL when it is not in the schema. */
void ctl_fail_refused(GError **error, const CliMethod *method, const Json *answer_error);

/* text with everything that a terminal would take as a command made visible (\x1b...). */
char *ctl_printable(const char *text);

#endif
