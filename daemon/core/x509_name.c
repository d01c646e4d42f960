#include "daemon/core/x509_name.h"
#include <stdint.h>
#include <string.h>

/* A value is a sequence of these: bytes, or wildcards, which an escaped `*` is not. */
enum { ANY_STRING = 256, ANY_CHARACTER = 257 };

typedef struct {
    char *type;
    guint16 *value;
    size_t length;
} Attribute;

struct X509Name {
    GArray *attributes;
};

static void attribute_clear(gpointer data)
{
    Attribute *attribute = data;
    g_free(attribute->type);
    g_free(attribute->value);
}

void x509_name_free(X509Name *name)
{
    if (!name)
        return;
    g_array_unref(name->attributes);
    g_free(name);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509Name, x509_name_free)

/* RFC 4514 section 3: keystring (letters, digits, "-") or a numeric OID. */
static bool good_type(const char *type)
{
    if (!g_ascii_isalnum(*type))
        return false;
    for (const char *p = type; *p; p++) {
        if (!g_ascii_isalnum(*p) && *p != '-' && *p != '.')
            return false;
    }
    return true;
}

/* One escape after a backslash: a special character, or two hexadecimal digits. Answers how many
 * characters it takes, 0 when it is none. */
static size_t parse_escape(const char *p, guint16 *ret_byte)
{
    if (g_ascii_isxdigit(p[0]) && g_ascii_isxdigit(p[1])) {
        *ret_byte = (guint16)(g_ascii_xdigit_value(p[0]) << 4 | g_ascii_xdigit_value(p[1]));
        return 2;
    }
    if (*p && strchr(" \"#+,;<=>\\*?", *p)) {
        *ret_byte = (guchar)*p;
        return 1;
    }
    return 0;
}

/* Reads a value up to an unescaped "," or "+"; answers where it stopped, NULL when malformed. */
static const char *parse_value(const char *p, bool patterns, Attribute *attribute)
{
    g_autoptr(GArray) value = g_array_new(FALSE, FALSE, sizeof(guint16));
    guint keep = 0; /* spaces at the end count only when they were escaped */
    while (*p == ' ')
        p++;
    while (*p && *p != ',' && *p != '+') {
        guint16 unit = (guchar)*p;
        if (*p == '\\') {
            size_t taken = parse_escape(p + 1, &unit);
            if (taken == 0)
                return NULL;
            p += 1 + taken;
            keep = value->len + 1;
        } else if (strchr("\";<>", *p)) {
            return NULL;
        } else {
            if (patterns && *p == '*')
                unit = ANY_STRING;
            else if (patterns && *p == '?')
                unit = ANY_CHARACTER;
            if (*p != ' ')
                keep = value->len + 1;
            p++;
        }
        g_array_append_val(value, unit);
    }
    attribute->length = keep;
    attribute->value = g_new(guint16, keep + 1);
    if (keep > 0) /* an empty array has no memory */
        memcpy(attribute->value, value->data, keep * sizeof(guint16));
    return p;
}

X509Name *x509_name_parse(const char *text, bool patterns, char **ret_reason)
{
    g_autoptr(X509Name) name = g_new0(X509Name, 1);
    name->attributes = g_array_new(FALSE, TRUE, sizeof(Attribute));
    g_array_set_clear_func(name->attributes, attribute_clear);

    const char *p = text;
    const char *reason = NULL;
    do {
        const char *equals = strchr(p, '=');
        if (!equals) {
            reason = "each attribute is TYPE=VALUE, as in CN=alice,O=Acme";
            break;
        }
        g_autofree char *type = g_strstrip(g_strndup(p, equals - p));
        if (!good_type(type)) {
            reason = "an attribute's type is letters and digits, as in CN=alice";
            break;
        }
        Attribute attribute = {0};
        p = parse_value(equals + 1, patterns, &attribute);
        if (!p) {
            reason = "a value has a character that RFC 4514 wants escaped with a backslash";
            break;
        }
        attribute.type = g_steal_pointer(&type);
        g_array_append_val(name->attributes, attribute);
    } while (*p++);

    if (reason) {
        if (ret_reason)
            *ret_reason = g_strdup(reason);
        return NULL;
    }
    return g_steal_pointer(&name);
}

/* How many bytes the UTF-8 character at value takes, so that `?` is one character. */
static size_t character_length(const guint16 *value, size_t left)
{
    size_t length = 1;
    if (value[0] >= 0xc0) {
        while (length < left && length < 4 && (value[length] & 0xc0) == 0x80)
            length++;
    }
    return length;
}

/* The usual wildcard match with one point to go back to: linear in memory, at worst the product of
 * the two (bounded) lengths in time. */
static bool value_matches(const Attribute *pattern, const Attribute *value)
{
    size_t p = 0, v = 0, star = SIZE_MAX, resume = 0;
    while (v < value->length) {
        guint16 unit = p < pattern->length ? pattern->value[p] : 0;
        if (p < pattern->length && unit == ANY_STRING) {
            star = p++;
            resume = v;
        } else if (p < pattern->length && unit == ANY_CHARACTER) {
            v += character_length(value->value + v, value->length - v);
            p++;
        } else if (p < pattern->length && unit == value->value[v]) {
            p++;
            v++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            v = ++resume;
        } else {
            return false;
        }
    }
    while (p < pattern->length && pattern->value[p] == ANY_STRING)
        p++;
    return p == pattern->length;
}

bool x509_name_matches(const X509Name *pattern, const X509Name *name)
{
    for (guint i = 0; i < pattern->attributes->len; i++) {
        const Attribute *wanted = &g_array_index(pattern->attributes, Attribute, i);
        bool found = false;
        for (guint j = 0; j < name->attributes->len && !found; j++) {
            const Attribute *attribute = &g_array_index(name->attributes, Attribute, j);
            found = g_ascii_strcasecmp(wanted->type, attribute->type) == 0 &&
                    value_matches(wanted, attribute);
        }
        if (!found)
            return false;
    }
    return true;
}
