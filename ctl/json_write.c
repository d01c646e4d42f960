#include "ctl/json.h"

void json_append_string(GString *out, const char *text)
{
    g_string_append_c(out, '"');
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\')
            g_string_append_c(out, '\\');
        if ((unsigned char)*text < 0x20)
            g_string_append_printf(out, "\\u%04x", (unsigned)(unsigned char)*text);
        else
            g_string_append_c(out, *text);
    }
    g_string_append_c(out, '"');
}

static void append_key(GString *out, const Json *member, const char *separator)
{
    if (member->key != NULL) {
        json_append_string(out, member->key);
        g_string_append(out, separator);
    }
}

void json_append_compact(GString *out, const Json *value)
{
    if (value->type != JSON_ARRAY && value->type != JSON_OBJECT) {
        g_string_append_len(out, value->text, (gssize)value->length);
        return;
    }
    g_string_append_c(out, *value->text);
    for (const Json *item = value->child; item != NULL; item = item->next) {
        if (item != value->child)
            g_string_append_c(out, ',');
        append_key(out, item, ":");
        json_append_compact(out, item);
    }
    g_string_append_c(out, value->text[value->length - 1]);
}

/* Short lists of plain values stay on one line. */
static bool fits_on_a_line(const Json *value)
{
    enum { SHORT = 70 };
    size_t length = 0;
    if (value->type != JSON_ARRAY)
        return false;
    for (const Json *item = value->child; item != NULL && length <= SHORT; item = item->next) {
        if (item->type == JSON_ARRAY || item->type == JSON_OBJECT)
            return false;
        length += item->length + 2;
    }
    return length <= SHORT;
}

void json_append_pretty(GString *out, const Json *value, unsigned indent)
{
    if (value->child == NULL) {
        json_append_compact(out, value);
        return;
    }
    if (fits_on_a_line(value)) {
        for (const Json *item = value->child; item != NULL; item = item->next) {
            g_string_append(out, item == value->child ? "[" : ", ");
            json_append_compact(out, item);
        }
        g_string_append_c(out, ']');
        return;
    }
    g_string_append_c(out, *value->text);
    for (const Json *item = value->child; item != NULL; item = item->next) {
        g_string_append_printf(out, "%s\n%*s", item == value->child ? "" : ",", (int)indent + 2,
                               "");
        append_key(out, item, ": ");
        json_append_pretty(out, item, indent + 2);
    }
    g_string_append_printf(out, "\n%*s%c", (int)indent, "", value->text[value->length - 1]);
}
