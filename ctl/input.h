/* Files and standard input as arguments. */
#ifndef CTL_INPUT_H
#define CTL_INPUT_H

#include <glib.h>

/* The content of a file, or of standard input for "-": UTF-8 without NUL. NULL with CTL_USAGE. */
char *input_read(const char *path, GError **error);

#endif
