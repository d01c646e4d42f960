#include "ctl/json.h"
#include "tests/unit/check.h"

static JsonText *parse(const char *text)
{
    char *problem = NULL;
    JsonText *json = json_parse(text, strlen(text), &problem);
    g_free(problem);
    return json;
}

static void only_rfc_8259_is_json(void **state)
{
    static const char *const good[] = {
        "null",
        " true\r\n",
        "[]",
        "{}",
        "-0",
        "0.5e+10",
        "\"\\u00e4\\n\"",
        "[1,[2,{\"a\":[]}]]",
        "18446744073709551615",
        "\"\xc3\xa4\"",
    };
    static const char *const bad[] = {
        "",         " ",           "nul",        "01",    "1.",      ".5",  "+1",
        "1e",       "[1,]",        "{\"a\":1,}", "{a:1}", "{'a':1}", "\"a", "\"\t\"",
        "\"\\x\"",  "\"\\u12g4\"", "NaN",        "[1",    "{\"a\"}", "1 2", "[1]]",
        "\"\xff\"", "--1",         "{\"a\" 1}",  "[,1]",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(JsonText) json = parse(good[i]);
        if (json == NULL)
            fail_msg("refused: %s", good[i]);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(JsonText) json = parse(bad[i]);
        if (json != NULL)
            fail_msg("taken: %s", bad[i]);
    }
}

static void problems_have_a_place(void **state)
{
    g_autofree char *problem = NULL;
    assert_null(json_parse("[1, x]", 6, &problem));
    assert_string_equal(problem, "no value at byte 4");
}

static void nesting_is_bounded(void **state)
{
    g_autofree char *deep = g_strnfill(100000, '[');
    assert_null(parse(deep));
}

static void a_nul_is_no_end(void **state)
{
    g_autofree char *behind = NULL, *inside = NULL;
    assert_null(json_parse("1\0", 2, &behind));
    assert_null(json_parse("[\0]", 3, &inside));
}

static void values_keep_their_slice(void **state)
{
    g_autoptr(JsonText) json = parse("{ \"a\" : 18446744073709551615, \"b\":[1, 2 ] ,\"c\":1.50}");
    const Json *root = json_root(json), *a = json_member(root, "a"), *b = json_member(root, "b");
    uint64_t number = 7;
    assert_true(json_uint(a, &number));
    assert_true(number == UINT64_MAX);
    assert_int_equal(b->length, strlen("[1, 2 ]"));
    assert_memory_equal(b->text, "[1, 2 ]", b->length);
    assert_int_equal(json_count(b), 2);
    assert_false(json_uint(json_member(root, "c"), &number));
    assert_null(json_member(root, "d"));
    assert_null(json_member(a, "a"));
}

static void numbers_out_of_range_are_none(void **state)
{
    static const char *const texts[] = {"-1", "18446744073709551616", "1e3", "\"1\"", "null"};
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(JsonText) json = parse(texts[i]);
        uint64_t number = 42;
        assert_false(json_uint(json_root(json), &number));
        assert_int_equal(number, 42);
    }
}

static void strings_are_decoded(void **state)
{
    static const struct {
        const char *text, *string;
    } rows[] = {
        {"\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "a\"\\/\b\f\n\r\t"},
        {"\"\\u00e4\\u20AC\"", "ä€"},
        {"\"\\ud83d\\ude00\"", "😀"},
        {"\"\\ud83dx\"", "\xef\xbf\xbdx"},
        {"\"a\\u0000b\"", "a\xef\xbf\xbd"
                          "b"},
        {"\"\\ud83d\\u0041\"", "\xef\xbf\xbd"
                               "A"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(JsonText) json = parse(rows[i].text);
        g_autofree char *string = json_string(json_root(json));
        assert_string_equal(string, rows[i].string);
    }
}

static void strings_are_encoded(void **state)
{
    g_autoptr(GString) out = g_string_new(NULL);
    json_append_string(out, "a\"\\\n\x01ä");
    assert_string_equal(out->str, "\"a\\\"\\\\\\u000a\\u0001ä\"");
    g_autoptr(JsonText) json = parse(out->str);
    g_autofree char *back = json_string(json_root(json));
    assert_string_equal(back, "a\"\\\n\x01ä");
}

static void compact_and_pretty(void **state)
{
    g_autoptr(JsonText) json =
        parse("{ \"a\" : [ 1 , {\"b\" : null} ],\n\"c\":\"x y\", \"d\": [], \"e\":[\"p\",\"q\"]}");
    g_autoptr(GString) compact = g_string_new(NULL), pretty = g_string_new(NULL);
    json_append_compact(compact, json_root(json));
    assert_string_equal(compact->str,
                        "{\"a\":[1,{\"b\":null}],\"c\":\"x y\",\"d\":[],\"e\":[\"p\",\"q\"]}");
    json_append_pretty(pretty, json_root(json), 0);
    assert_string_equal(pretty->str, "{\n"
                                     "  \"a\": [\n"
                                     "    1,\n"
                                     "    {\n"
                                     "      \"b\": null\n"
                                     "    }\n"
                                     "  ],\n"
                                     "  \"c\": \"x y\",\n"
                                     "  \"d\": [],\n"
                                     "  \"e\": [\"p\", \"q\"]\n"
                                     "}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_rfc_8259_is_json),   cmocka_unit_test(problems_have_a_place),
        cmocka_unit_test(nesting_is_bounded),      cmocka_unit_test(a_nul_is_no_end),
        cmocka_unit_test(values_keep_their_slice), cmocka_unit_test(numbers_out_of_range_are_none),
        cmocka_unit_test(strings_are_decoded),     cmocka_unit_test(strings_are_encoded),
        cmocka_unit_test(compact_and_pretty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
