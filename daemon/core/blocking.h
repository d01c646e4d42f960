/* A call that may hang (a file on a dead NFS server), made by a thread of its own so that whoever
 * needs the answer can give up waiting. */
#ifndef CORE_BLOCKING_H
#define CORE_BLOCKING_H

#include <glib.h>
#include <stdbool.h>

/* At most so many calls are left to themselves at once; then no more are begun. */
#define BLOCKING_MAX_ABANDONED 64

/* Runs function(data) and waits until it has returned, or the deadline (g_get_monotonic_time()).
 * True: it has, and data is the caller's. False: the call goes on by itself, and data is given to
 * free_data when it has returned; *ret_begun (if not NULL) is false when it was not even begun,
 * because too many hang already or threads are short (data is freed then, too). */
bool run_until(void (*function)(gpointer data), gpointer data, GDestroyNotify free_data,
               gint64 deadline, bool *ret_begun);

#endif
