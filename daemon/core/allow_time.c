#include "daemon/core/allow_time.h"
#include <string.h>

#define UNTIL        "until:"
#define FOR          "for:"
#define TIME_EXAMPLE "2026-12-01T00:00:00Z"
#define TIME_LENGTH  (sizeof(TIME_EXAMPLE) - 1)
#define FORMAT       "%Y-%m-%dT%H:%M:%SZ"
/* More is no grant for a time any more; and sums stay far from the end of numbers. */
#define LONGEST (100 * UINT64_C(366) * 24 * 3600)

bool allow_time_is_in_front(const char *text)
{
    return g_str_has_prefix(text, UNTIL) || g_str_has_prefix(text, FOR);
}

/* Exactly the one form, so that what is shown is what was given. */
static bool parse_time(const char *text, int64_t *ret_time)
{
    g_autofree char *copy = g_strndup(text, TIME_LENGTH);
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(copy, NULL);
    g_autofree char *again = time ? g_date_time_format(time, FORMAT) : NULL;
    if (g_strcmp0(again, copy) != 0)
        return false;
    *ret_time = g_date_time_to_unix(time) * G_USEC_PER_SEC;
    return true;
}

static bool parse_length(const char *text, size_t length, int64_t *ret_seconds)
{
    static const char units[] = "smhd";
    static const uint64_t seconds[] = {1, 60, 3600, 24 * 3600};
    const char *unit = length > 1 ? strchr(units, text[length - 1]) : NULL;
    g_autofree char *digits = g_strndup(text, length > 0 ? length - 1 : 0);
    guint64 number;
    if (!unit || !g_ascii_string_to_unsigned(digits, 10, 1, LONGEST, &number, NULL) ||
        number > LONGEST / seconds[unit - units])
        return false;
    *ret_seconds = (int64_t)(number * seconds[unit - units]);
    return true;
}

char *allow_time_take(const char **text, int64_t now, int64_t *ret_until)
{
    const char *p = *text;
    int64_t until = ALLOW_FOR_EVER;
    if (g_str_has_prefix(p, UNTIL)) {
        p += strlen(UNTIL);
        if (strlen(p) <= TIME_LENGTH || p[TIME_LENGTH] != ':' || !parse_time(p, &until))
            return g_strdup("until: wants a time in UTC, as in until:" TIME_EXAMPLE ":psk:bob");
        p += TIME_LENGTH + 1;
    } else if (g_str_has_prefix(p, FOR)) {
        p += strlen(FOR);
        const char *colon = strchr(p, ':');
        int64_t seconds;
        if (!colon || !parse_length(p, (size_t)(colon - p), &seconds))
            return g_strdup("for: wants a time of up to 100 years in s, m, h or d, as in "
                            "for:2h:psk:bob");
        /* Whole seconds, and not a moment less than was asked. */
        int64_t whole = (now + G_USEC_PER_SEC - 1) / G_USEC_PER_SEC;
        until = (whole + seconds) * G_USEC_PER_SEC;
        p = colon + 1;
    }
    *text = p;
    *ret_until = until;
    return NULL;
}

char *allow_time_put(const char *rest, int64_t until)
{
    if (until == ALLOW_FOR_EVER)
        return g_strdup(rest);
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(until / G_USEC_PER_SEC);
    g_autofree char *text = g_date_time_format(time, FORMAT);
    return g_strconcat(UNTIL, text, ":", rest, NULL);
}
