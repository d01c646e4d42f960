/* Errors of the storage layer: one GError domain.
 *
 * I/O on the data path answers 0 or a negative errno (see backend.h, disk.h); everything that
 * is set up, torn down or stored answers a GError of this domain. The daemon turns codes into
 * the kinds of its API in one place (daemon/core/api_error.c). */
#ifndef STORAGE_ERROR_H
#define STORAGE_ERROR_H

#include <glib.h>

#define STORAGE_ERROR (storage_error_quark())
GQuark storage_error_quark(void);

typedef enum {
    STORAGE_ERROR_IO,        /* the system refused: the message ends in strerror */
    STORAGE_ERROR_LOCKED,    /* somebody else holds the file or the state directory */
    STORAGE_ERROR_NOT_FOUND, /* no such file, disk, bitmap */
    STORAGE_ERROR_EXISTS,    /* the name is taken */
    STORAGE_ERROR_INVALID,   /* an argument that can never be right */
    STORAGE_ERROR_STATE,     /* right in itself, but not in the present state */
    STORAGE_ERROR_LIMIT,     /* a bound was reached */
    STORAGE_ERROR_CORRUPT,   /* stored state that cannot be read */
    STORAGE_ERROR_TIMEOUT,   /* a deadline passed before it could be done */
} StorageErrorCode;

/* Sets *error to STORAGE_ERROR_IO (LOCKED for EAGAIN, EACCES of a lock is the caller's business;
 * NOT_FOUND for ENOENT) with the formatted text, ": " and strerror(errnum). errnum > 0. */
void storage_error_set_errno(GError **error, int errnum, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

#endif
