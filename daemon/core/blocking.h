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

/* True while calls that nobody waits for any more still run: then what they use must stay. */
bool blocking_left_behind(void);
/* The same, but lets what is nearly done end first: waits until the deadline for it. */
bool blocking_left_behind_until(gint64 deadline);

/* Runs function(item, data) for every item on at most so many threads, and waits until all have
 * returned, or the deadline. False: the rest goes on by itself (see blocking_left_behind); items
 * keeps its elements until the last one is done. Takes a reference of items. */
bool run_all_until(GPtrArray *items, void (*function)(gpointer item, gpointer data), gpointer data,
                   unsigned threads, gint64 deadline);

#endif
