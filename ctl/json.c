#include "ctl/json.h"
#include <stdlib.h>
#include <string.h>

/* Bounds on what a peer can make us allocate: far above any answer that nbdd sends. */
enum { DEPTH_MAX = 128, NODES_MAX = 8 * 1024 * 1024, NODES_PER_BLOCK = 512 };

struct JsonText {
    char *text;
    GPtrArray *blocks; /* of Json[NODES_PER_BLOCK] */
    GPtrArray *keys;   /* decoded ones */
    Json *root;
    size_t nodes;
};

typedef struct Parser {
    JsonText *json;
    const char *at, *end;
    const char *problem;
    unsigned depth;
} Parser;

static bool parse_value(Parser *parser, Json *value);

static bool fail(Parser *parser, const char *problem)
{
    parser->problem = problem;
    return false;
}

static void skip_space(Parser *parser)
{
    while (parser->at < parser->end && strchr(" \t\r\n", *parser->at) != NULL && *parser->at != 0)
        parser->at++;
}

static Json *new_node(Parser *parser)
{
    JsonText *json = parser->json;
    if (json->nodes == NODES_MAX)
        return NULL;
    if (json->nodes % NODES_PER_BLOCK == 0) {
        Json *block = calloc(NODES_PER_BLOCK, sizeof *block);
        if (block == NULL)
            return NULL;
        g_ptr_array_add(json->blocks, block);
    }
    Json *block = g_ptr_array_index(json->blocks, json->blocks->len - 1);
    return &block[json->nodes++ % NODES_PER_BLOCK];
}

static bool parse_hex(Parser *parser)
{
    for (int i = 0; i < 4; i++, parser->at++)
        if (parser->at == parser->end || !g_ascii_isxdigit(*parser->at))
            return fail(parser, "a \\u escape without four hexadecimal digits");
    return true;
}

/* parser->at is behind the opening quote; ends behind the closing one. */
static bool parse_string(Parser *parser)
{
    while (parser->at < parser->end) {
        unsigned char c = (unsigned char)*parser->at++;
        if (c == '"')
            return true;
        if (c < 0x20)
            return fail(parser, "a control character in a string");
        if (c != '\\')
            continue;
        if (parser->at == parser->end)
            break;
        char escape = *parser->at++;
        if (escape == 'u') {
            if (!parse_hex(parser))
                return false;
        } else if (escape == 0 || strchr("\"\\/bfnrt", escape) == NULL) {
            return fail(parser, "an unknown escape in a string");
        }
    }
    return fail(parser, "a string without an end");
}

static bool parse_digits(Parser *parser)
{
    if (parser->at == parser->end || !g_ascii_isdigit(*parser->at))
        return fail(parser, "a number without digits");
    while (parser->at < parser->end && g_ascii_isdigit(*parser->at))
        parser->at++;
    return true;
}

static bool parse_number(Parser *parser)
{
    if (*parser->at == '-')
        parser->at++;
    bool zero = parser->at < parser->end && *parser->at == '0';
    const char *first = parser->at;
    if (!parse_digits(parser))
        return false;
    if (zero && parser->at - first > 1)
        return fail(parser, "a number that begins with 0");
    if (parser->at < parser->end && *parser->at == '.') {
        parser->at++;
        if (!parse_digits(parser))
            return false;
    }
    if (parser->at < parser->end && (*parser->at == 'e' || *parser->at == 'E')) {
        parser->at++;
        if (parser->at < parser->end && (*parser->at == '+' || *parser->at == '-'))
            parser->at++;
        return parse_digits(parser);
    }
    return true;
}

static bool parse_word(Parser *parser, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(parser->end - parser->at) < length || memcmp(parser->at, word, length) != 0)
        return fail(parser, "an unknown word");
    parser->at += length;
    return true;
}

static unsigned decode_hex(const char *text)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++)
        value = value * 16 + (unsigned)g_ascii_xdigit_value(text[i]);
    return value;
}

/* text points behind the `\u`; answers how many bytes were used. A lone surrogate, and U+0000,
 * which no C string can hold, become U+FFFD. */
static size_t decode_unicode(const char *text, const char *end, GString *out)
{
    unsigned unit = decode_hex(text);
    if (unit >= 0xd800 && unit < 0xdc00 && end - text >= 10 && text[4] == '\\' && text[5] == 'u') {
        unsigned low = decode_hex(text + 6);
        if (low >= 0xdc00 && low < 0xe000) {
            g_string_append_unichar(out, 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
            return 10;
        }
    }
    g_string_append_unichar(out, unit == 0 || (unit >= 0xd800 && unit < 0xe000) ? 0xfffd : unit);
    return 4;
}

/* text is what stands between the quotes of a valid string. */
static char *decode_string(const char *text, size_t length)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    GString *out = g_string_sized_new(length);
    const char *end = text + length;
    while (text < end) {
        if (*text != '\\') {
            g_string_append_c(out, *text++);
            continue;
        }
        char escape = text[1];
        text += 2;
        if (escape == 'u')
            text += decode_unicode(text, end, out);
        else
            g_string_append_c(out, to[strchr(from, escape) - from]);
    }
    return g_string_free(out, FALSE);
}

static bool parse_member(Parser *parser, Json *member)
{
    if (parser->at == parser->end || *parser->at != '"')
        return fail(parser, "a member without a name");
    const char *key = ++parser->at;
    if (!parse_string(parser))
        return false;
    char *decoded = decode_string(key, (size_t)(parser->at - 1 - key));
    g_ptr_array_add(parser->json->keys, decoded);
    member->key = decoded;
    skip_space(parser);
    if (parser->at == parser->end || *parser->at != ':')
        return fail(parser, "a member without a colon");
    parser->at++;
    return parse_value(parser, member);
}

static bool parse_container(Parser *parser, Json *container, char close)
{
    Json **link = &container->child;
    parser->at++;
    if (++parser->depth > DEPTH_MAX)
        return fail(parser, "deeper than anything nbdd uses");
    skip_space(parser);
    if (parser->at < parser->end && *parser->at == close) {
        parser->at++;
        parser->depth--;
        return true;
    }
    for (;;) {
        Json *item = new_node(parser);
        if (item == NULL)
            return fail(parser, "too large");
        skip_space(parser);
        if (!(close == '}' ? parse_member(parser, item) : parse_value(parser, item)))
            return false;
        *link = item;
        link = &item->next;
        skip_space(parser);
        if (parser->at == parser->end || (*parser->at != ',' && *parser->at != close))
            return fail(parser, "neither a comma nor the end of a list or object");
        if (*parser->at++ == close) {
            parser->depth--;
            return true;
        }
    }
}

static bool parse_value(Parser *parser, Json *value)
{
    skip_space(parser);
    if (parser->at == parser->end)
        return fail(parser, "an end where a value should be");
    value->text = parser->at;
    bool good;
    switch (*parser->at) {
    case '{':
        value->type = JSON_OBJECT;
        good = parse_container(parser, value, '}');
        break;
    case '[':
        value->type = JSON_ARRAY;
        good = parse_container(parser, value, ']');
        break;
    case '"':
        value->type = JSON_STRING;
        parser->at++;
        good = parse_string(parser);
        break;
    case 'n':
        value->type = JSON_NULL;
        good = parse_word(parser, "null");
        break;
    case 't':
        value->type = JSON_TRUE;
        good = parse_word(parser, "true");
        break;
    case 'f':
        value->type = JSON_FALSE;
        good = parse_word(parser, "false");
        break;
    default:
        if (*parser->at != '-' && !g_ascii_isdigit(*parser->at))
            return fail(parser, "no value");
        value->type = JSON_NUMBER;
        good = parse_number(parser);
    }
    value->length = (size_t)(parser->at - value->text);
    return good;
}

static bool parse_whole(Parser *parser)
{
    const char *bad;
    if (!g_utf8_validate(parser->at, parser->end - parser->at, &bad)) {
        parser->at = bad;
        return fail(parser, "not UTF-8");
    }
    parser->json->root = new_node(parser);
    if (parser->json->root == NULL)
        return fail(parser, "no memory");
    if (!parse_value(parser, parser->json->root))
        return false;
    skip_space(parser);
    return parser->at == parser->end || fail(parser, "something behind the end");
}

JsonText *json_parse(const char *text, size_t length, char **ret_problem)
{
    g_autoptr(JsonText) json = g_new0(JsonText, 1);
    json->text = malloc(length + 1);
    json->blocks = g_ptr_array_new_with_free_func(free);
    json->keys = g_ptr_array_new_with_free_func(g_free);
    if (json->text == NULL) {
        *ret_problem = g_strdup("no memory");
        return NULL;
    }
    memcpy(json->text, text, length);
    json->text[length] = 0;
    Parser parser = {.json = json, .at = json->text, .end = json->text + length};
    if (!parse_whole(&parser)) {
        *ret_problem =
            g_strdup_printf("%s at byte %zu", parser.problem, (size_t)(parser.at - json->text));
        return NULL;
    }
    return g_steal_pointer(&json);
}

void json_text_free(JsonText *json)
{
    if (json == NULL)
        return;
    free(json->text);
    g_ptr_array_unref(json->blocks);
    g_ptr_array_unref(json->keys);
    g_free(json);
}

const Json *json_root(const JsonText *json)
{
    return json->root;
}

/* --- looking at values --- */

const Json *json_member(const Json *object, const char *key)
{
    if (!json_is(object, JSON_OBJECT))
        return NULL;
    for (const Json *member = object->child; member != NULL; member = member->next)
        if (strcmp(member->key, key) == 0)
            return member;
    return NULL;
}

bool json_is(const Json *value, JsonType type)
{
    return value != NULL && value->type == type;
}

char *json_string(const Json *value)
{
    return json_is(value, JSON_STRING) ? decode_string(value->text + 1, value->length - 2) : NULL;
}

bool json_uint(const Json *value, uint64_t *ret_number)
{
    if (!json_is(value, JSON_NUMBER))
        return false;
    g_autofree char *text = g_strndup(value->text, value->length);
    guint64 number;
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &number, NULL))
        return false;
    *ret_number = number;
    return true;
}

bool json_true(const Json *value)
{
    return json_is(value, JSON_TRUE);
}

unsigned json_count(const Json *container)
{
    unsigned count = 0;
    if (json_is(container, JSON_ARRAY) || json_is(container, JSON_OBJECT))
        for (const Json *item = container->child; item != NULL; item = item->next)
            count++;
    return count;
}

bool json_string_is(const Json *value, const char *text)
{
    g_autofree char *string = json_string(value);
    return string != NULL && strcmp(string, text) == 0;
}
