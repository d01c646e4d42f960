#include "daemon/control/json_string.h"

#include <string.h>

/* Length of the UTF-8 sequence at `at`, 0 if there is none: RFC 3629, section 4. */
static size_t utf8_length(const unsigned char *at, const unsigned char *end)
{
    size_t length;
    unsigned char low = 0x80, high = 0xbf;
    if (at[0] < 0x80)
        return 1;
    if (at[0] >= 0xc2 && at[0] <= 0xdf) {
        length = 2;
    } else if (at[0] >= 0xe0 && at[0] <= 0xef) {
        length = 3;
        if (at[0] == 0xe0)
            low = 0xa0; /* shorter forms exist */
        if (at[0] == 0xed)
            high = 0x9f; /* surrogates */
    } else if (at[0] >= 0xf0 && at[0] <= 0xf4) {
        length = 4;
        if (at[0] == 0xf0)
            low = 0x90;
        if (at[0] == 0xf4)
            high = 0x8f; /* beyond U+10FFFF */
    } else {
        return 0;
    }
    if ((size_t)(end - at) < length || at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if (at[i] < 0x80 || at[i] > 0xbf)
            return 0;
    }
    return length;
}

/* Four hexadecimal digits at `at`; -1 if they are not. */
static int hex4(const char *at, const char *end)
{
    int value = 0;
    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(at[i]);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Decodes the escape behind a backslash at `at` into *ret_point. Answers its length with the
 * backslash, 0 if it is not one. A pair of surrogates is one escape. */
static size_t decode_escape(const char *at, const char *end, gunichar *ret_point)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    if (end - at < 2)
        return 0;
    const char *letter = at[1] ? strchr(letters, at[1]) : NULL;
    if (letter) {
        *ret_point = (gunichar)values[letter - letters];
        return 2;
    }
    if (at[1] != 'u')
        return 0;
    int first = hex4(at + 2, end);
    if (first < 0 || (first >= 0xdc00 && first <= 0xdfff))
        return 0;
    if (first < 0xd800 || first > 0xdbff) {
        *ret_point = (gunichar)first;
        return 6;
    }
    if (end - at < 12 || at[6] != '\\' || at[7] != 'u')
        return 0;
    int second = hex4(at + 8, end);
    if (second < 0xdc00 || second > 0xdfff)
        return 0;
    *ret_point = 0x10000u + (((gunichar)first - 0xd800u) << 10) + ((gunichar)second - 0xdc00u);
    return 12;
}

const char *json_string_read(const char **at, const char *end, GString *out)
{
    const char *here = *at + 1; /* the quote */
    const char *wrong = "the string has no end";
    while (here < end) {
        unsigned char c = (unsigned char)*here;
        gunichar point;
        size_t length;
        if (c == '"') {
            *at = here + 1;
            return NULL;
        }
        if (c < 0x20) {
            wrong = "a control character in a string must be escaped";
            break;
        }
        if (c == '\\') {
            length = decode_escape(here, end, &point);
            wrong = "not an escape sequence, or half a surrogate pair";
        } else {
            length = utf8_length((const unsigned char *)here, (const unsigned char *)end);
            wrong = "not UTF-8";
        }
        if (length == 0)
            break;
        if (out && c == '\\')
            g_string_append_unichar(out, point);
        else if (out)
            g_string_append_len(out, here, (gssize)length);
        here += length;
        wrong = "the string has no end";
    }
    *at = here;
    return wrong;
}
