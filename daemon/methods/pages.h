/* Pages of long answers: the cursor is the key of the last object of the page before. */
#ifndef METHODS_PAGES_H
#define METHODS_PAGES_H

#include <glib.h>
#include <stdint.h>

typedef const char *(*PageKey)(gconstpointer item);

/* items: borrowed pointers in the order of their keys. Where the page after cursor (NULL: the
 * first) begins; *ret_end is where it ends with at most limit items. */
guint page_begin(const GPtrArray *items, const char *cursor, uint64_t limit, PageKey key,
                 guint *ret_end);

/* The cursor of the page after the one that ended there; NULL when that was the last. g_free. */
char *page_next(const GPtrArray *items, guint begin, guint end, PageKey key);

/* A GPtrArray of char * (or of borrowed ones) as a list of strings. */
char **strings_of(const GPtrArray *names);

/* RFC 3339 in UTC with microseconds. */
char *time_text(int64_t microseconds);

#endif
