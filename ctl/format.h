/* One value of an answer as text for people. */
#ifndef CTL_FORMAT_H
#define CTL_FORMAT_H

#include "ctl/json.h"
#include "ctl/terminal.h"
#include "schema/cli.h"

typedef enum Detail {
    DETAIL_SHORT, /* for a cell: "64 MiB", "3 min 5 s" */
    DETAIL_FULL,  /* for a line: "64 MiB (67108864 bytes)", "2026-05-01 10:00:00 CEST (3 min 5 s
                     ago)" */
} Detail;

/* Appends the value of a field that is no object and answers how to show it. null is "-". */
Style format_value(GString *out, const CliField *field, const Json *value, Detail detail);

/* "2026-05-01 10:00:00 CEST" in the user's time zone; text itself if it is no time. */
void format_time(GString *out, const char *text, const char *format);

#endif
