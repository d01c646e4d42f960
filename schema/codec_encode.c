/* Results to JSON text, straight from the tables: no tree in between. */
#include "schema/api.h"
#include "schema/codec.h"

#include <inttypes.h>
#include <string.h>

void api_encode_string(const char *text, GString *out)
{
    g_autofree char *valid = NULL;
    if (!g_utf8_validate(text, -1, NULL))
        text = valid = g_utf8_make_valid(text, -1);
    g_string_append_c(out, '"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        switch (*c) {
        case '"':
            g_string_append(out, "\\\"");
            break;
        case '\\':
            g_string_append(out, "\\\\");
            break;
        case '\n':
            g_string_append(out, "\\n");
            break;
        case '\t':
            g_string_append(out, "\\t");
            break;
        default:
            if (*c < 0x20 || *c == 0x7f)
                g_string_append_printf(out, "\\u%04x", *c);
            else
                g_string_append_c(out, (char)*c);
        }
    }
    g_string_append_c(out, '"');
}

static void encode_text(const char *text, GString *out)
{
    api_encode_string(text ? text : "", out);
}

static void encode_enum(const ApiEnum *type, uint32_t value, GString *out)
{
    encode_text(value < type->count ? type->names[value] : NULL, out);
}

static void encode_list(const ApiField *field, const void *slot, GString *out)
{
    const char *comma = "";
    g_string_append_c(out, '[');
    switch (field->kind) {
    case API_STRING:
        for (char **item = *(char **const *)slot; item && *item; item++, comma = ",") {
            g_string_append(out, comma);
            encode_text(*item, out);
        }
        break;
    case API_UINT32:
    case API_UINT64: {
        const GArray *array = *(GArray *const *)slot;
        for (guint i = 0; array && i < array->len; i++, comma = ",")
            g_string_append_printf(out, "%s%" PRIu64, comma, g_array_index(array, uint64_t, i));
        break;
    }
    case API_ENUM:
        for (unsigned i = 0; i < field->enumeration->count; i++) {
            if (*(const uint32_t *)slot & (1u << i)) {
                g_string_append(out, comma);
                encode_enum(field->enumeration, i, out);
                comma = ",";
            }
        }
        break;
    case API_OBJECT: {
        const GPtrArray *array = *(GPtrArray *const *)slot;
        for (guint i = 0; array && i < array->len; i++, comma = ",") {
            g_string_append(out, comma);
            api_encode(field->object, array->pdata[i], out);
        }
        break;
    }
    case API_ACTION:
    case API_ACTION_RESULT: {
        const GPtrArray *array = *(GPtrArray *const *)slot;
        for (guint i = 0; array && i < array->len; i++, comma = ",") {
            const ApiAction *action = array->pdata[i];
            g_string_append(out, comma);
            api_encode(action->method->result, action->result, out);
        }
        break;
    }
    case API_BOOLEAN:
    case API_JSON: /* no lists of these */
        break;
    }
    g_string_append_c(out, ']');
}

static void encode_single(const ApiField *field, const void *slot, GString *out)
{
    switch (field->kind) {
    case API_BOOLEAN:
        g_string_append(out, *(const bool *)slot ? "true" : "false");
        break;
    case API_UINT32:
        g_string_append_printf(out, "%" PRIu32, *(const uint32_t *)slot);
        break;
    case API_UINT64:
        g_string_append_printf(out, "%" PRIu64, *(const uint64_t *)slot);
        break;
    case API_STRING:
        encode_text(*(char *const *)slot, out);
        break;
    case API_ENUM:
        encode_enum(field->enumeration, *(const uint32_t *)slot, out);
        break;
    case API_OBJECT:
        if (field->flags & (API_OPTIONAL | API_NULLABLE))
            slot = *(void *const *)slot;
        api_encode(field->object, slot, out);
        break;
    case API_JSON:
        g_string_append(out, *(char *const *)slot ? *(char *const *)slot : "null");
        break;
    case API_ACTION: /* only in lists */
    case API_ACTION_RESULT:
        break;
    }
}

/* Whether there is a value. Pointers tell by themselves, others by their has_X. */
static bool has_value(const ApiField *field, const void *object)
{
    const void *slot = (const char *)object + field->offset;
    bool pointer = field->kind == API_STRING || field->kind == API_JSON ||
                   field->kind == API_OBJECT || field->kind == API_ACTION ||
                   field->kind == API_ACTION_RESULT ||
                   ((field->flags & API_LIST) && field->kind != API_ENUM);
    if (!(field->flags & (API_OPTIONAL | API_NULLABLE)))
        return true;
    if (pointer)
        return *(void *const *)slot != NULL;
    if (!*(const bool *)((const char *)object + field->has_offset))
        return false;
    /* When it can be absent too, a 0 is the null that was given. */
    bool both = (field->flags & API_OPTIONAL) && (field->flags & API_NULLABLE);
    return !both || (field->kind == API_UINT64 ? *(const uint64_t *)slot != 0
                                               : *(const uint32_t *)slot != 0);
}

/* Whether the member is written at all: what may be absent and null is null when has_X says that
 * it was given. */
static bool is_written(const ApiField *field, const void *object)
{
    if (!(field->flags & API_OPTIONAL) || has_value(field, object))
        return true;
    return (field->flags & API_NULLABLE) && (field->flags & API_HAS) &&
           *(const bool *)((const char *)object + field->has_offset);
}

void api_encode(const ApiStruct *type, const void *object, GString *out)
{
    const char *comma = "";
    g_string_append_c(out, '{');
    for (size_t i = 0; i < type->count; i++) {
        const ApiField *field = &type->fields[i];
        const void *slot = (const char *)object + field->offset;
        if (!is_written(field, object))
            continue;
        g_string_append_printf(out, "%s\"%s\":", comma, field->name);
        comma = ",";
        if (!has_value(field, object))
            g_string_append(out, "null");
        else if (field->flags & API_LIST)
            encode_list(field, slot, out);
        else
            encode_single(field, slot, out);
    }
    g_string_append_c(out, '}');
}

char *api_to_json(const ApiStruct *type, const void *object)
{
    GString *out = g_string_new(NULL);
    api_encode(type, object, out);
    return g_string_free(out, FALSE);
}
