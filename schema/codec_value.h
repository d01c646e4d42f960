/* Single values out of json-c's tree, for codec_decode.c alone. The only place that reads them:
 * json-c's getters coerce and clamp, so every one is behind a check of the type. Each answers false
 * with *problem set when the value is not what the field wants. */
#ifndef SCHEMA_CODEC_VALUE_H
#define SCHEMA_CODEC_VALUE_H

#include "schema/codec.h"

bool value_string(const ApiField *field, struct json_object *value, const char *path,
                  char **ret_text, ApiProblem *problem);
bool value_number(const ApiField *field, struct json_object *value, const char *path,
                  uint64_t *ret_number, ApiProblem *problem);
bool value_enum(const ApiField *field, struct json_object *value, const char *path,
                uint32_t *ret_value, ApiProblem *problem);

/* Both answer false. "`NAME` must be EXPECTED, not VALUE"; the second takes path and text. */
bool value_refuse(ApiProblem *problem, const char *path, struct json_object *value,
                  const char *expected);
bool value_problem(ApiProblem *problem, char *path, char *text);

/* The last step of a path, and of a list's item that of the list: what people call the value
 * ("allow[0]"); g_free. */
char *value_name(const char *path);

#endif
