/* Strings of JSON texts: RFC 8259, section 7, with UTF-8 (RFC 3629) and surrogates in pairs. */
#ifndef CONTROL_JSON_STRING_H
#define CONTROL_JSON_STRING_H

#include <glib.h>

/* Reads the string whose opening quote is at *at, and appends its characters, as UTF-8, to out
 * unless that is NULL. Answers NULL with *at behind the closing quote, or what is wrong (a
 * constant) with *at where it is. */
const char *json_string_read(const char **at, const char *end, GString *out);

#endif
