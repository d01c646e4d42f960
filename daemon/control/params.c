/* json-c when memory is short: a value that it has no room for is refused, but a member of an
 * object is left out without a word. A request without its `dry_run` would be another one, so what
 * came is counted against what was made of it. */
#include "daemon/control/params.h"

/* Members and elements, at every depth: the scanner has bounded it. */
static size_t count_in_text(Slice text)
{
    size_t count = 0;
    Slice key, value;
    if (scan_type(text) == '{') {
        for (ScanCursor cursor = scan_enter(text); scan_next_member(&cursor, &key, &value);)
            count += 1 + count_in_text(value);
    } else if (scan_type(text) == '[') {
        for (ScanCursor cursor = scan_enter(text); scan_next_element(&cursor, &value);)
            count += 1 + count_in_text(value);
    }
    return count;
}

static size_t count_in_value(struct json_object *value)
{
    size_t count = 0;
    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member)
        {
            (void)key;
            count += 1 + count_in_value(member);
        }
    } else if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++)
            count += 1 + count_in_value(json_object_array_get_idx(value, i));
    }
    return count;
}

bool params_parse(Slice text, struct json_object **ret_value)
{
    struct json_object *value = NULL;
    if (text.length > 0) {
        struct json_tokener *tokener = json_tokener_new_ex(SCAN_DEPTH + 1);
        if (!tokener)
            return false;
        value = json_tokener_parse_ex(tokener, text.start, (int)text.length);
        json_tokener_free(tokener);
        if (!value || count_in_value(value) != count_in_text(text)) {
            json_object_put(value);
            return false;
        }
    }
    *ret_value = value;
    return true;
}
