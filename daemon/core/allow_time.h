/* How long an entry of an allow list lasts: "until:2026-12-01T00:00:00Z:" in front of it, or
 * "for:2h:" where people write it, which becomes the other. Times are microseconds since 1970. */
#ifndef CORE_ALLOW_TIME_H
#define CORE_ALLOW_TIME_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define ALLOW_FOR_EVER INT64_MAX

/* Moves *text behind such a front, if there is one. *ret_until: when it is over; ALLOW_FOR_EVER
 * without one. NULL, or what is wrong with it (g_free). now: what "for:" counts from. */
char *allow_time_take(const char **text, int64_t now, int64_t *ret_until);
/* The entry as it is kept: rest, with "until:" in front if it is not for ever. */
char *allow_time_put(const char *rest, int64_t until);
/* True when a text begins as one with a time does. */
bool allow_time_is_in_front(const char *text);

#endif
