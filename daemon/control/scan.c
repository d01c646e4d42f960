#include "daemon/control/scan.h"
#include "daemon/control/json_string.h"

#include <string.h>

typedef struct {
    const char *text, *at, *end;
    GArray *findings;
    GArray *keys;     /* of Key: those of all open objects, innermost last */
    GString *decoded; /* what their characters are */
    unsigned depth;
    ScanError error;
} Scanner;

typedef struct {
    size_t start, length; /* in `decoded` */
    const char *at;
} Key;

static bool fail_at(Scanner *scanner, const char *at, const char *text)
{
    scanner->error.offset = (size_t)(at - scanner->text);
    scanner->error.text = text;
    return false;
}

static bool fail(Scanner *scanner, const char *text)
{
    return fail_at(scanner, scanner->at, text);
}

static void find(Scanner *scanner, ScanKind kind, const char *at)
{
    ScanFinding finding = {kind, at};
    g_array_append_val(scanner->findings, finding);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void skip_space(Scanner *scanner)
{
    while (scanner->at < scanner->end && is_space(*scanner->at))
        scanner->at++;
}

static bool at_char(const Scanner *scanner, char c)
{
    return scanner->at < scanner->end && *scanner->at == c;
}

/* --- strings --- */

/* A string; its characters are appended to out unless that is NULL. */
static bool scan_one_string(Scanner *scanner, GString *out)
{
    const char *wrong = json_string_read(&scanner->at, scanner->end, out);
    return !wrong || fail(scanner, wrong);
}

/* --- numbers --- */

static bool scan_digits(Scanner *scanner)
{
    const char *start = scanner->at;
    while (scanner->at < scanner->end && is_digit(*scanner->at))
        scanner->at++;
    return scanner->at > start;
}

/* Whether the digits fit 64 bits: up to 2^63 behind a minus sign, else below 2^64. */
static bool fits(const char *digits, const char *end, bool negative)
{
    guint64 limit = negative ? (guint64)G_MAXINT64 + 1 : G_MAXUINT64;
    guint64 value = 0;
    for (; digits < end; digits++) {
        guint64 digit = (guint64)(*digits - '0');
        if (value > (limit - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    return true;
}

static bool scan_number(Scanner *scanner)
{
    const char *start = scanner->at;
    bool negative = *start == '-';
    bool integer = true;
    if (negative)
        scanner->at++;
    const char *digits = scanner->at;
    if (!scan_digits(scanner))
        return fail(scanner, "a digit is expected");
    if (*digits == '0' && scanner->at - digits > 1)
        return fail_at(scanner, digits, "a number must not begin with 0");
    const char *digits_end = scanner->at;
    if (at_char(scanner, '.')) {
        integer = false;
        scanner->at++;
        if (!scan_digits(scanner))
            return fail(scanner, "a digit is expected");
    }
    if (at_char(scanner, 'e') || at_char(scanner, 'E')) {
        integer = false;
        scanner->at++;
        if (at_char(scanner, '+') || at_char(scanner, '-'))
            scanner->at++;
        if (!scan_digits(scanner))
            return fail(scanner, "a digit is expected");
    }
    if (integer && !fits(digits, digits_end, negative))
        find(scanner, SCAN_INEXACT, start);
    return true;
}

/* --- values --- */

static bool scan_value(Scanner *scanner);

static bool scan_word(Scanner *scanner, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(scanner->end - scanner->at) < length || memcmp(scanner->at, word, length) != 0)
        return fail(scanner, "a JSON value is expected");
    scanner->at += length;
    return true;
}

static bool scan_array(Scanner *scanner)
{
    scanner->at++;
    skip_space(scanner);
    if (at_char(scanner, ']')) {
        scanner->at++;
        return true;
    }
    for (;;) {
        if (!scan_value(scanner))
            return false;
        skip_space(scanner);
        if (at_char(scanner, ']')) {
            scanner->at++;
            return true;
        }
        if (!at_char(scanner, ','))
            return fail(scanner, "`,` or `]` is expected");
        scanner->at++;
    }
}

static bool scan_key(Scanner *scanner)
{
    if (!at_char(scanner, '"'))
        return fail(scanner, "a key in quotes is expected");
    Key key = {.start = scanner->decoded->len, .at = scanner->at};
    if (!scan_one_string(scanner, scanner->decoded))
        return false;
    key.length = scanner->decoded->len - key.start;
    g_array_append_val(scanner->keys, key);
    if (memchr(scanner->decoded->str + key.start, 0, key.length))
        find(scanner, SCAN_NUL_IN_KEY, key.at);
    skip_space(scanner);
    if (!at_char(scanner, ':'))
        return fail(scanner, "`:` is expected");
    scanner->at++;
    return true;
}

static int compare_keys(gconstpointer a, gconstpointer b, gpointer data)
{
    const Key *first = a, *second = b;
    const char *decoded = ((GString *)data)->str;
    size_t common = MIN(first->length, second->length);
    int order = memcmp(decoded + first->start, decoded + second->start, common);
    if (order == 0 && first->length != second->length)
        order = first->length < second->length ? -1 : 1;
    return order;
}

static int compare_keys_and_places(gconstpointer a, gconstpointer b, gpointer data)
{
    int order = compare_keys(a, b, data);
    const Key *first = a, *second = b;
    if (order == 0)
        order = first->at < second->at ? -1 : 1;
    return order;
}

/* The keys from `first` on are those of one object. Sorting bounds the time whatever they are:
 * no hash that a client could make collide. */
static void find_duplicates(Scanner *scanner, guint first)
{
    guint count = scanner->keys->len - first;
    Key *keys = &g_array_index(scanner->keys, Key, first);
    if (count > 1)
        g_qsort_with_data(keys, (gint)count, sizeof(Key), compare_keys_and_places,
                          scanner->decoded);
    for (guint i = 1; i < count; i++) {
        if (compare_keys(&keys[i - 1], &keys[i], scanner->decoded) == 0)
            find(scanner, SCAN_DUPLICATE_KEY, keys[i].at);
    }
}

static bool scan_object(Scanner *scanner)
{
    guint first_key = scanner->keys->len;
    size_t decoded_before = scanner->decoded->len;
    scanner->at++;
    skip_space(scanner);
    for (bool more = !at_char(scanner, '}'); more;) {
        skip_space(scanner);
        if (!scan_key(scanner) || !scan_value(scanner))
            return false;
        skip_space(scanner);
        more = at_char(scanner, ',');
        if (!more && !at_char(scanner, '}'))
            return fail(scanner, "`,` or `}` is expected");
        if (more)
            scanner->at++;
    }
    scanner->at++;
    find_duplicates(scanner, first_key);
    g_array_set_size(scanner->keys, first_key);
    g_string_truncate(scanner->decoded, decoded_before);
    return true;
}

static bool scan_nested(Scanner *scanner, bool (*scan)(Scanner *))
{
    if (scanner->depth == SCAN_DEPTH)
        return fail(scanner, "nested too deep");
    scanner->depth++;
    bool good = scan(scanner);
    scanner->depth--;
    return good;
}

static bool scan_value(Scanner *scanner)
{
    skip_space(scanner);
    if (scanner->at == scanner->end)
        return fail(scanner, "a JSON value is expected");
    switch (*scanner->at) {
    case '{':
        return scan_nested(scanner, scan_object);
    case '[':
        return scan_nested(scanner, scan_array);
    case '"':
        return scan_one_string(scanner, NULL);
    case 't':
        return scan_word(scanner, "true");
    case 'f':
        return scan_word(scanner, "false");
    case 'n':
        return scan_word(scanner, "null");
    default:
        if (*scanner->at == '-' || is_digit(*scanner->at))
            return scan_number(scanner);
        return fail(scanner, "a JSON value is expected");
    }
}

static int compare_findings(gconstpointer a, gconstpointer b)
{
    const ScanFinding *first = a, *second = b;
    return first->at < second->at ? -1 : first->at > second->at;
}

bool scan_text(const char *text, size_t length, Slice *ret_value, GArray *findings,
               ScanError *ret_error)
{
    Scanner scanner = {.text = text, .at = text, .end = text + length, .findings = findings};
    scanner.keys = g_array_new(FALSE, FALSE, sizeof(Key));
    scanner.decoded = g_string_new(NULL);
    skip_space(&scanner);
    const char *start = scanner.at;
    bool good = scan_value(&scanner);
    const char *end = scanner.at;
    if (good) {
        skip_space(&scanner);
        if (scanner.at != scanner.end)
            good = fail(&scanner, "there is something behind the JSON text");
    }
    if (good) {
        *ret_value = (Slice){start, (size_t)(end - start)};
        g_array_sort(findings, compare_findings);
    } else {
        *ret_error = scanner.error;
    }
    g_array_unref(scanner.keys);
    g_string_free(scanner.decoded, TRUE);
    return good;
}
