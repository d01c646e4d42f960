#include "ctl/format.h"
#include "ctl/units.h"
#include <string.h>

/* Words whose meaning has a colour, whichever object's state they are. */
static const struct {
    const char *word;
    Style style;
} words[] = {
    {"ready", STYLE_GOOD},      {"recording", STYLE_GOOD},   {"listening", STYLE_GOOD},
    {"connected", STYLE_GOOD},  {"disabled", STYLE_WARNING}, {"recovered", STYLE_WARNING},
    {"opening", STYLE_WARNING}, {"removing", STYLE_WARNING}, {"handshake", STYLE_WARNING},
    {"waiting", STYLE_WARNING}, {"closing", STYLE_WARNING},  {"invalid", STYLE_BAD},
    {"missing", STYLE_BAD},     {"failed", STYLE_BAD},       {"unavailable", STYLE_BAD},
    {"expired", STYLE_BAD},
};

static Style style_of_word(const char *text)
{
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        if (strcmp(words[i].word, text) == 0)
            return words[i].style;
    return STYLE_PLAIN;
}

void format_time(GString *out, const char *text, const char *format)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(text, NULL);
    g_autoptr(GDateTime) local = time != NULL ? g_date_time_to_local(time) : NULL;
    g_autofree char *formatted = local != NULL ? g_date_time_format(local, format) : NULL;
    g_string_append(out, formatted != NULL ? formatted : text);
}

static void append_time(GString *out, const char *text, Detail detail)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(text, NULL);
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    int64_t seconds = time != NULL ? g_date_time_difference(now, time) / G_TIME_SPAN_SECOND : 0;
    if (detail == DETAIL_FULL || time == NULL)
        format_time(out, text, "%Y-%m-%d %H:%M:%S %Z");
    if (time == NULL)
        return;
    if (detail == DETAIL_FULL)
        g_string_append(out, seconds < 0 ? " (in " : " (");
    duration_append(out, (uint64_t)ABS(seconds));
    if (detail == DETAIL_FULL)
        g_string_append(out, seconds < 0 ? ")" : " ago)");
}

/* An entry that lasts until a time: who it is first, as with the others. */
static bool append_until(GString *out, const char *text)
{
    static const char front[] = "until:", example[] = "2026-12-01T00:00:00Z:";
    size_t length = strlen(front) + strlen(example);
    if (!g_str_has_prefix(text, front) || strlen(text) <= length)
        return false;
    g_autofree char *when = g_strndup(text + strlen(front), strlen(example) - 1);
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(when, NULL);
    if (time == NULL)
        return false;
    g_string_append_printf(out, "%s until ", text + length);
    append_time(out, when, DETAIL_FULL);
    return true;
}

static Style append_number(GString *out, const CliField *field, const Json *value, Detail detail)
{
    uint64_t number;
    if (!json_uint(value, &number))
        g_string_append_len(out, value->text, (gssize)value->length);
    else if (field != NULL && field->type == CLI_SIZE && detail == DETAIL_FULL)
        size_append_exact(out, number);
    else if (field != NULL && field->type == CLI_SIZE)
        size_append(out, number);
    else if (field != NULL && g_str_has_suffix(field->name, "_seconds"))
        duration_append(out, number);
    else
        g_string_append_printf(out, "%" G_GUINT64_FORMAT, number);
    return STYLE_PLAIN;
}

static Style append_string(GString *out, const CliField *field, const Json *value, Detail detail)
{
    g_autofree char *text = json_string(value);
    if (field != NULL && field->type == CLI_TIME)
        append_time(out, text, detail);
    else if (field == NULL || g_strcmp0(field->type_name, "allow-entry") != 0 ||
             !append_until(out, text))
        g_string_append(out, text);
    return field != NULL && field->type == CLI_ENUM ? style_of_word(text) : STYLE_PLAIN;
}

Style format_value(GString *out, const CliField *field, const Json *value, Detail detail)
{
    if (value == NULL || value->type == JSON_NULL) {
        g_string_append_c(out, '-');
        return STYLE_DIM;
    }
    switch (value->type) {
    case JSON_NULL:
        break;
    case JSON_TRUE:
        g_string_append(out, "yes");
        break;
    case JSON_FALSE:
        g_string_append(out, "no");
        break;
    case JSON_NUMBER:
        return append_number(out, field, value, detail);
    case JSON_STRING:
        return append_string(out, field, value, detail);
    case JSON_ARRAY:
        for (const Json *item = value->child; item != NULL; item = item->next) {
            if (item != value->child)
                g_string_append(out, ", ");
            format_value(out, field, item, DETAIL_SHORT);
        }
        if (value->child == NULL)
            g_string_append_c(out, '-');
        return value->child == NULL ? STYLE_DIM : STYLE_PLAIN;
    case JSON_OBJECT:
        json_append_compact(out, value);
        break;
    }
    return STYLE_PLAIN;
}
