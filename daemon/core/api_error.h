/* Errors as the API answers them: one GError domain whose codes are the schema's error kinds
 * (ErrorKind, generated from schema/errors), with the path of the parameter they are about.
 * The one place where STORAGE_ERROR and errno turn into API errors is api_error.c. */
#ifndef CORE_API_ERROR_H
#define CORE_API_ERROR_H

#include "schema/api.h"
#include <glib.h>

#define API_ERROR (api_error_quark())
GQuark api_error_quark(void);

/* path: "/params/name", or NULL. The text names the parameter, the value and what would be right.
 */
void api_error_set(GError **error, ErrorKind kind, const char *path, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

/* Takes error (STORAGE_ERROR or API_ERROR) and sets *target to an API_ERROR; path is used unless
 * the error has one. */
void api_error_propagate(GError **target, GError *error, const char *path);

/* NULL when there is none. */
const char *api_error_path(const GError *error);

#endif
