/* Walking through a text that the scanner has passed: nothing here checks the grammar again. */
#include "daemon/control/json_string.h"
#include "daemon/control/scan.h"
#include "schema/codec.h"

#include <string.h>

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

/* Behind the string that begins at `at`. */
static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++) {
        if (*at == '\\')
            at++;
    }
    return at < end ? at + 1 : end;
}

/* Behind the value that begins at `at`. */
static const char *skip_value(const char *at, const char *end)
{
    unsigned depth = 0;
    if (*at == '"')
        return skip_string(at, end);
    if (*at != '{' && *at != '[') {
        while (at < end && !strchr(",]} \t\r\n", *at))
            at++;
        return at;
    }
    while (at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
            continue;
        }
        if (*at == '{' || *at == '[')
            depth++;
        else if (*at == '}' || *at == ']')
            depth--;
        at++;
        if (depth == 0)
            break;
    }
    return at;
}

ScanCursor scan_enter(Slice container)
{
    return (ScanCursor){container.start + 1, container.start + container.length - 1};
}

bool scan_next_element(ScanCursor *cursor, Slice *ret_value)
{
    const char *start = skip_space(cursor->at, cursor->end);
    if (start < cursor->end && *start == ',')
        start = skip_space(start + 1, cursor->end);
    if (start >= cursor->end)
        return false;
    cursor->at = skip_value(start, cursor->end);
    *ret_value = (Slice){start, (size_t)(cursor->at - start)};
    return true;
}

bool scan_next_member(ScanCursor *cursor, Slice *ret_key, Slice *ret_value)
{
    Slice key;
    if (!scan_next_element(cursor, &key))
        return false;
    const char *start = skip_space(cursor->at, cursor->end);
    start = skip_space(start + 1, cursor->end); /* the colon */
    cursor->at = skip_value(start, cursor->end);
    *ret_key = key;
    *ret_value = (Slice){start, (size_t)(cursor->at - start)};
    return true;
}

GString *scan_string(Slice string)
{
    GString *out = g_string_sized_new(string.length);
    const char *at = string.start;
    json_string_read(&at, string.start + string.length, out);
    return out;
}

bool scan_string_equals(Slice string, const char *text)
{
    if (string.length < 2 || string.start[0] != '"')
        return false;
    GString *out = scan_string(string);
    bool equal = out->len == strlen(text) && memcmp(out->str, text, out->len) == 0;
    g_string_free(out, TRUE);
    return equal;
}

static bool holds(Slice slice, const char *at)
{
    return at >= slice.start && at < slice.start + slice.length;
}

char *scan_path(Slice value, const char *at, const char *base)
{
    char *path = g_strdup(base);
    for (bool deeper = true; deeper;) {
        bool object = scan_type(value) == '{';
        Slice key = {0}, item;
        size_t index = 0;
        deeper = false;
        if (at == value.start || (!object && scan_type(value) != '['))
            break;
        ScanCursor cursor = scan_enter(value);
        while (object ? scan_next_member(&cursor, &key, &item)
                      : scan_next_element(&cursor, &item)) {
            bool in_key = object && holds(key, at);
            if (!in_key && !holds(item, at)) {
                index++;
                continue;
            }
            g_autofree char *before = path;
            if (object) {
                GString *name = scan_string(key);
                path = api_path_join(before, name->str); /* up to a NUL, if it has one */
                g_string_free(name, TRUE);
            } else {
                path = g_strdup_printf("%s/%zu", before, index);
            }
            value = item;
            deeper = !in_key;
            break;
        }
    }
    return path;
}
