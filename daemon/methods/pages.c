#include "daemon/methods/pages.h"
#include <string.h>

guint page_begin(const GPtrArray *items, const char *cursor, uint64_t limit, PageKey key,
                 guint *ret_end)
{
    guint begin = 0;
    while (cursor && begin < items->len && strcmp(key(items->pdata[begin]), cursor) <= 0)
        begin++;
    *ret_end = items->len - begin > limit ? begin + (guint)limit : items->len;
    return begin;
}

char *page_next(const GPtrArray *items, guint begin, guint end, PageKey key)
{
    return end < items->len && end > begin ? g_strdup(key(items->pdata[end - 1])) : NULL;
}

char **strings_of(const GPtrArray *names)
{
    char **list = g_new0(char *, names->len + 1);
    for (guint i = 0; i < names->len; i++)
        list[i] = g_strdup(names->pdata[i]);
    return list;
}

char *time_text(int64_t microseconds)
{
    g_autoptr(GDateTime) seconds = g_date_time_new_from_unix_utc(microseconds / G_USEC_PER_SEC);
    g_autofree char *text = g_date_time_format(seconds, "%Y-%m-%dT%H:%M:%S");
    return g_strdup_printf("%s.%06dZ", text, (int)(microseconds % G_USEC_PER_SEC));
}
