/* Locks on image files that QEMU's tools understand, and that understand theirs.
 *
 * QEMU's convention (its file-posix driver): a process that uses a permission on an image holds a
 * shared OFD lock on byte 100 + permission, one that does not tolerate others using it holds one on
 * byte 200 + permission; a conflict is found by asking whether an exclusive lock could be had on
 * the opposite byte. The locks belong to the open file and go with its last descriptor. */
#ifndef STORAGE_LOCK_H
#define STORAGE_LOCK_H

#include <glib.h>
#include <stdbool.h>

/* Takes the locks of a writer (nobody else may write) or of a reader (others may read, nobody may
 * write). Never waits. LOCKED says what stands in the way; IO: the file system has no locks. */
bool lock_image(int fd, const char *path, bool writer, GError **error);

#endif
