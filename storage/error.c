#include "storage/error.h"
#include <errno.h>
#include <stdarg.h>
#include <string.h>

G_DEFINE_QUARK(nbdd - storage - error, storage_error)

void storage_error_set_errno(GError **error, int errnum, const char *format, ...)
{
    StorageErrorCode code = errnum == ENOENT ? STORAGE_ERROR_NOT_FOUND : STORAGE_ERROR_IO;
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, STORAGE_ERROR, code, "%s: %s", text, g_strerror(errnum));
}
