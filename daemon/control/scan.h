/* The RFC 8259 scanner: what it has passed, json-c can be given.
 *
 * json-c 0.16 accepts texts that are not JSON, drops duplicate keys, cuts keys at \u0000 and clamps
 * integers. So every line is scanned first. What breaks the grammar (or is not UTF-8, or pairs no
 * surrogates, or nests too deep) is an error of the whole text. What the grammar allows and we do
 * not is a finding with its place, so that it can be blamed on the request and the parameter that
 * it is in.
 *
 * Pure functions over memory, no allocation that the text could blow up beyond a small multiple of
 * its length; any thread. */
#ifndef CONTROL_SCAN_H
#define CONTROL_SCAN_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

/* Objects and arrays inside each other; the API needs six. */
#define SCAN_DEPTH 32

/* A piece of the scanned text; not terminated, lives as long as the text. */
typedef struct {
    const char *start;
    size_t length;
} Slice;

typedef enum {
    SCAN_DUPLICATE_KEY, /* at the second one */
    SCAN_NUL_IN_KEY,    /* at the key: U+0000 in it */
    SCAN_INEXACT,       /* at the number: an integer that neither int64 nor uint64 can hold */
} ScanKind;

typedef struct {
    ScanKind kind;
    const char *at;
} ScanFinding;

typedef struct {
    size_t offset;    /* bytes from the start of the text */
    const char *text; /* a constant: what is wrong there */
} ScanError;

/* Scans text as one JSON text. True: *ret_value is the value without white space around it, and
 * findings (of ScanFinding) has what was found appended, in the order of places. */
bool scan_text(const char *text, size_t length, Slice *ret_value, GArray *findings,
               ScanError *ret_error);

/* The rest is for slices that scan_text has passed. */

typedef struct {
    const char *at, *end;
} ScanCursor;

/* First character: one of { [ " t f n - 0-9. */
static inline char scan_type(Slice value)
{
    return value.start[0];
}

ScanCursor scan_enter(Slice container); /* an object or array */
bool scan_next_member(ScanCursor *cursor, Slice *ret_key, Slice *ret_value); /* key: with quotes */
bool scan_next_element(ScanCursor *cursor, Slice *ret_value);

/* The characters that a string slice (with its quotes) stands for, as UTF-8; may have NULs in it.
 * Free with g_string_free. */
GString *scan_string(Slice string);
bool scan_string_equals(Slice string, const char *text);

/* JSON pointer from value down to the member, key or item that has the byte `at` in it, with base
 * in front; g_free. */
char *scan_path(Slice value, const char *at, const char *base);

#endif
