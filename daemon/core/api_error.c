#include "daemon/core/api_error.h"
#include "storage/error.h"

/* GError with one more member, kept by GLib beside the public ones. */
typedef struct {
    char *path;
} ApiErrorPrivate;

static void api_error_private_init(ApiErrorPrivate *private)
{
    private->path = NULL;
}

static void api_error_private_copy(const ApiErrorPrivate *from, ApiErrorPrivate *to)
{
    to->path = g_strdup(from->path);
}

static void api_error_private_clear(ApiErrorPrivate *private)
{
    g_free(private->path);
}

G_DEFINE_EXTENDED_ERROR(ApiError, api_error)

void api_error_set(GError **error, ErrorKind kind, const char *path, const char *format, ...)
{
    if (!error)
        return;
    va_list arguments;
    va_start(arguments, format);
    GError *fresh = g_error_new_valist(API_ERROR, kind, format, arguments);
    va_end(arguments);
    api_error_get_private(fresh)->path = g_strdup(path);
    g_propagate_error(error, fresh);
}

static ErrorKind kind_of_storage(StorageErrorCode code)
{
    switch (code) {
    case STORAGE_ERROR_IO:
    case STORAGE_ERROR_CORRUPT:
        return ERROR_IO;
    case STORAGE_ERROR_LOCKED:
        return ERROR_BUSY;
    case STORAGE_ERROR_NOT_FOUND:
        return ERROR_NOT_FOUND;
    case STORAGE_ERROR_EXISTS:
        return ERROR_ALREADY_EXISTS;
    case STORAGE_ERROR_INVALID:
        return ERROR_INVALID_ARGUMENT;
    case STORAGE_ERROR_STATE:
        return ERROR_INVALID_STATE;
    case STORAGE_ERROR_LIMIT:
        return ERROR_LIMIT;
    case STORAGE_ERROR_TIMEOUT:
        return ERROR_TIMEOUT;
    }
    return ERROR_INTERNAL;
}

void api_error_propagate(GError **target, GError *error, const char *path)
{
    g_return_if_fail(error != NULL);
    if (error->domain == API_ERROR) {
        ApiErrorPrivate *private = api_error_get_private(error);
        if (!private->path)
        private->path = g_strdup(path);
        g_propagate_error(target, error);
        return;
    }
    ErrorKind kind = error->domain == STORAGE_ERROR ? kind_of_storage((StorageErrorCode)error->code)
                                                    : ERROR_INTERNAL;
    api_error_set(target, kind, path, "%s", error->message);
    g_error_free(error);
}

const char *api_error_path(const GError *error)
{
    /* GLib's accessor is not const-correct. */
    return error->domain == API_ERROR ? api_error_get_private((GError *)error)->path : NULL;
}
