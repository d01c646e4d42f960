#include "schema/codec_value.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <pthread.h>
#include <regex.h>
#include <string.h>

/* Longest part of a value that an error repeats, in bytes. */
#define SHOWN_BYTES 80

/* --- problems --- */

/* What value is, for people: short, on one line. */
static char *show_value(struct json_object *value)
{
    const char *text = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
                                                                 JSON_C_TO_STRING_NOSLASHESCAPE);
    if (strlen(text) <= SHOWN_BYTES)
        return g_strdup(text);
    size_t end = SHOWN_BYTES;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    return g_strdup_printf("%.*s...", (int)end, text);
}

char *value_name(const char *path)
{
    const char *last = strrchr(path, '/');
    if (!last)
        return g_strdup(path);
    const char *name = last;
    bool item = last[1] && strspn(last + 1, "0123456789") == strlen(last + 1);
    while (item && name > path && *--name != '/')
        ;
    if (!item || *name != '/')
        return g_strdup(last + 1);
    return g_strdup_printf("%.*s[%s]", (int)(last - name - 1), name + 1, last + 1);
}

/* "NAME must be EXPECTED, not VALUE". */
bool value_refuse(ApiProblem *problem, const char *path, struct json_object *value,
                  const char *expected)
{
    g_autofree char *shown = show_value(value), *name = value_name(path);
    problem->path = g_strdup(path);
    problem->text = g_strdup_printf("`%s` must be %s, not %s", name, expected, shown);
    return false;
}

bool value_problem(ApiProblem *problem, char *path, char *text)
{
    problem->path = path;
    problem->text = text;
    return false;
}

/* --- strings --- */

/* Patterns are compiled when first needed and kept: there are about ten. */
static pthread_mutex_t pattern_mutex = PTHREAD_MUTEX_INITIALIZER;
static GHashTable *patterns; /* const char * of the table -> regex_t * */

static const regex_t *find_pattern(const char *text)
{
    pthread_mutex_lock(&pattern_mutex);
    if (!patterns)
        patterns = g_hash_table_new(g_direct_hash, g_direct_equal);
    regex_t *pattern = g_hash_table_lookup(patterns, text);
    if (!pattern) {
        pattern = g_new(regex_t, 1);
        int status = regcomp(pattern, text, REG_EXTENDED | REG_NOSUB);
        g_assert(status == 0); /* patterns are constants of the program */
        g_hash_table_insert(patterns, (gpointer)text, pattern);
    }
    pthread_mutex_unlock(&pattern_mutex);
    return pattern;
}

bool value_string(const ApiField *field, struct json_object *value, const char *path,
                  char **ret_text, ApiProblem *problem)
{
    const char *expected = field->scalar ? field->scalar->expected : "a string";
    if (!json_object_is_type(value, json_type_string))
        return value_refuse(problem, path, value, expected);
    const char *text = json_object_get_string(value);
    size_t length = (size_t)json_object_get_string_len(value);
    if (memchr(text, 0, length))
        return value_refuse(problem, path, value, "a string without U+0000");
    /* Bounds are those of single strings; a list's own are those of its length. */
    if (!(field->flags & API_LIST) && (length < field->minimum || length > field->maximum)) {
        g_autofree char *bounds = g_strdup_printf("%s (%" PRIu64 " to %" PRIu64 " bytes)", expected,
                                                  field->minimum, field->maximum);
        return value_refuse(problem, path, value, bounds);
    }
    if (field->scalar && (length < field->scalar->minimum || length > field->scalar->maximum))
        return value_refuse(problem, path, value, expected);
    if (field->scalar && field->scalar->pattern &&
        regexec(find_pattern(field->scalar->pattern), text, 0, NULL, 0) != 0)
        return value_refuse(problem, path, value, expected);
    *ret_text = g_strndup(text, length);
    return true;
}

/* --- numbers --- */

static bool is_power_of_two(uint64_t number)
{
    return number != 0 && (number & (number - 1)) == 0;
}

bool value_number(const ApiField *field, struct json_object *value, const char *path,
                  uint64_t *ret_number, ApiProblem *problem)
{
    bool list = field->flags & API_LIST;
    uint64_t minimum = list ? 0 : field->minimum;
    uint64_t maximum = list ? INT64_MAX : field->maximum;
    bool power = field->flags & API_POWER_OF_TWO;
    uint64_t number = 0;
    bool good = json_object_is_type(value, json_type_int);
    if (good) {
        /* get_int64 clamps what is above, get_uint64 what is below. */
        int64_t signed_number = json_object_get_int64(value);
        number = signed_number < 0 ? 0 : json_object_get_uint64(value);
        good = signed_number >= 0 && number >= minimum && number <= maximum &&
               (!power || is_power_of_two(number));
    }
    if (!good) {
        g_autofree char *expected = g_strdup_printf(
            "%s from %" PRIu64 " to %" PRIu64 ", written without fraction or exponent",
            power ? "a power of two" : "an integer", minimum, maximum);
        return value_refuse(problem, path, value, expected);
    }
    *ret_number = number;
    return true;
}

bool value_enum(const ApiField *field, struct json_object *value, const char *path,
                uint32_t *ret_value, ApiProblem *problem)
{
    if (json_object_is_type(value, json_type_string)) {
        const char *text = json_object_get_string(value);
        size_t length = (size_t)json_object_get_string_len(value);
        for (unsigned i = 0; i < field->enumeration->count; i++) {
            const char *name = field->enumeration->names[i];
            if (length == strlen(name) && memcmp(text, name, length) == 0) {
                *ret_value = i;
                return true;
            }
        }
    }
    return value_refuse(problem, path, value, field->enumeration->expected);
}
