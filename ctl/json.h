/* JSON texts (RFC 8259) as a tree over the text itself: every value knows its exact slice, so that
 * numbers of any size and whole results can be printed as the daemon wrote them. No global state.
 */
#ifndef CTL_JSON_H
#define CTL_JSON_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum JsonType {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
} JsonType;

typedef struct Json Json;
struct Json {
    JsonType type;
    const char *text; /* the slice: not terminated */
    size_t length;
    const char *key; /* of a member: decoded, terminated; else NULL */
    Json *child;     /* first item or member */
    Json *next;      /* sibling */
};

/* A parsed text; owns a copy of it and all its values. */
typedef struct JsonText JsonText;

/* NULL when text is no JSON text; *ret_problem (g_free it) then says what is wrong and where. */
JsonText *json_parse(const char *text, size_t length, char **ret_problem);
void json_text_free(JsonText *json);
const Json *json_root(const JsonText *json);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JsonText, json_text_free)

/* All of these take NULL for a value that is not there. */
const Json *json_member(const Json *object, const char *key);
bool json_is(const Json *value, JsonType type);
/* The decoded string, or NULL if it is none. U+0000 comes out as U+FFFD. The caller frees it. */
char *json_string(const Json *value);
/* False, and *ret_number untouched, unless it is an integer that fits. */
bool json_uint(const Json *value, uint64_t *ret_number);
bool json_true(const Json *value);
unsigned json_count(const Json *container);
bool json_string_is(const Json *value, const char *text);

/* Appends text as a JSON string. text is valid UTF-8. */
void json_append_string(GString *out, const char *text);
/* Appends the value without the spaces between its tokens (so: on one line). */
void json_append_compact(GString *out, const Json *value);
/* Appends the value over several lines for people, without a newline at the end. */
void json_append_pretty(GString *out, const Json *value, unsigned indent);

#endif
