/* The codec of the API: decodes parameters and encodes results by tables that are generated from
 * the schema (api.c), so that every method is checked by the same few functions.
 *
 * Decoding never coerces: a value has exactly the type that the schema says, a number is an
 * integer without fraction or exponent inside its bounds, unknown keys are refused. (Duplicate
 * keys and numbers beyond 64 bits do not reach json-c: daemon/control/scan.h.)
 *
 * How fields look in a struct:
 *   boolean, integer, enum    bool, uint32_t or uint64_t, enum; `has_X` beside it when it may be
 *                             absent or null (it holds the default, or 0, then); if it may be
 *                             both, `has_X` with 0 is null
 *   string                    char *, NULL when absent or null; `has_X` only if both may be
 *   object                    embedded; a pointer, NULL for none, when it may be absent or null
 *   list of strings           char **, NULL-terminated; NULL when absent or null
 *   list of objects           GPtrArray * of XObject *, with x_object_free
 *   list of integers          GArray * of uint64_t
 *   list of enums             uint32_t, bit 1 << value
 *   json                      char *, JSON text
 *   lists that may be absent  `has_X` beside them (null: has_X is true, the pointer NULL)
 * Everything pointed to is GLib's to free and belongs to the struct: api_clear.
 *
 * Threads: no state but constant tables; any thread. */
#ifndef SCHEMA_CODEC_H
#define SCHEMA_CODEC_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object; /* json-c's */

typedef enum {
    API_BOOLEAN,
    API_UINT32,
    API_UINT64,
    API_STRING,
    API_ENUM,
    API_OBJECT,
    API_JSON,
    API_ACTION,        /* list of ApiAction *, decoded only */
    API_ACTION_RESULT, /* list of ApiAction *, encoded only: what each answers */
} ApiKind;

#define API_OPTIONAL     0x01u /* may be absent (with a default or without) */
#define API_NULLABLE     0x02u /* may be null */
#define API_LIST         0x04u
#define API_POWER_OF_TWO 0x08u
#define API_HAS          0x10u /* there is a bool at has_offset */

typedef struct {
    const char *const *names; /* index is the value */
    unsigned count;
    const char *expected; /* "writeback or direct" */
} ApiEnum;

typedef struct {
    const char *expected; /* what would be right, for people */
    uint64_t minimum, maximum;
    const char *pattern; /* POSIX extended regular expression, or NULL */
} ApiScalar;

typedef struct ApiStruct ApiStruct;

typedef struct {
    const char *name;
    ApiKind kind;
    unsigned flags;
    size_t offset, has_offset;
    uint64_t minimum, maximum; /* of a number; bytes of a string; length of a list */
    uint64_t initial;          /* value when absent: the default, or 0 */
    const ApiEnum *enumeration;
    const ApiScalar *scalar; /* NULL for a plain integer */
    const ApiStruct *object;
} ApiField;

struct ApiStruct {
    size_t size;
    const ApiField *fields;
    size_t count;
    const char *const *one_of;  /* exactly one of these is given; NULL-terminated, or NULL */
    GDestroyNotify free_object; /* of types that can be in a list */
};

/* What is wrong with a value: a JSON pointer such as "/params/actions/0/params/name", and a text
 * that names the parameter, the value and what would be right. */
typedef struct {
    char *path, *text;
} ApiProblem;
void api_problem_clear(ApiProblem *problem);

/* Answers the method of this name, or NULL. For the lists of actions in `transaction`. */
typedef struct ApiMethod ApiMethod;
typedef const ApiMethod *(*ApiFindMethod)(const char *name, gpointer data);
typedef struct {
    ApiFindMethod find; /* NULL: no method can be named */
    gpointer data;
} ApiLookup;

/* Decodes value, an object of json-c's, or NULL for one without members, into *ret_object (of
 * type->size bytes; contents before do not matter). path is value's own. On failure *ret_object is
 * untouched and *problem, which was empty, says why. value is only read. */
bool api_decode(const ApiStruct *type, struct json_object *value, const char *path,
                const ApiLookup *lookup, void *ret_object, ApiProblem *problem);

/* Appends the JSON text of object: one line, members in the order of the schema. */
void api_encode(const ApiStruct *type, const void *object, GString *out);
/* The same in a string of its own; g_free. */
char *api_to_json(const ApiStruct *type, const void *object);
/* Appends text as a JSON string with its quotes. What is not UTF-8 in it becomes U+FFFD. */
void api_encode_string(const char *text, GString *out);

/* Frees what object points to and zeroes it. */
void api_clear(const ApiStruct *type, void *object);

/* A path with one more step, escaped as RFC 6901 has it; g_free. */
char *api_path_join(const char *path, const char *key);

#endif
