/* daemon/control/scan: what is JSON (RFC 8259), what we find in it, and where. */
#include "daemon/control/scan.h"
#include "tests/unit/check.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

/* A row for each text; S() keeps NULs in it. */
typedef struct {
    const char *text;
    size_t length;
} Text;
#define S(text)                                                                                    \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }

static const Text good[] = {
    S("{}"),
    S("[]"),
    S("null"),
    S("true"),
    S("false"),
    S("0"),
    S("-0"),
    S("1"),
    S("-1"),
    S("10"),
    S("1234567890"),
    S("0.0"),
    S("-0.0"),
    S("0.5"),
    S("1.25"),
    S("1e0"),
    S("1E0"),
    S("1e+0"),
    S("1e-0"),
    S("0e0"),
    S("0E+1"),
    S("1e00"),
    S("1.5e10"),
    S("1.5E-10"),
    S("1e400"),
    S("-1e-400"),
    S("18446744073709551615"),
    S("18446744073709551616"),
    S("-9223372036854775808"),
    S("-9223372036854775809"),
    S("100000000000000000000000000000000000000000"),
    S("\"\""),
    S("\"a\""),
    S("\"\\\"\""),
    S("\"\\\\\""),
    S("\"\\/\""),
    S("\"/\""),
    S("\"\\b\\f\\n\\r\\t\""),
    S("\"\\u0000\""),
    S("\"\\u0041\""),
    S("\"\\u00e9\""),
    S("\"\\u00E9\""),
    S("\"\\uABCD\""),
    S("\"\\uabcd\""),
    S("\"\\ud7ff\""),
    S("\"\\ue000\""),
    S("\"\\uffff\""),
    S("\"\\ufffe\""),
    S("\"\\ud800\\udc00\""),
    S("\"\\udbff\\udfff\""),
    S("\"\\uD83D\\uDE00\""),
    S("\"\x7f\""),
    S("\"\xc2\x80\""),
    S("\"\xc3\xa9\""),
    S("\"\xdf\xbf\""),
    S("\"\xe0\xa0\x80\""),
    S("\"\xe2\x82\xac\""),
    S("\"\xed\x9f\xbf\""),
    S("\"\xee\x80\x80\""),
    S("\"\xef\xbf\xbf\""),
    S("\"\xef\xbb\xbf\""),
    S("\"\xf0\x90\x80\x80\""),
    S("\"\xf0\x9f\x98\x80\""),
    S("\"\xf4\x8f\xbf\xbf\""),
    S("\"\xe2\x80\xa8\xe2\x80\xa9\""),
    S("[1]"),
    S("[1,2]"),
    S("[[]]"),
    S("[[],[]]"),
    S("[{}]"),
    S("[null,true,false]"),
    S("[\"a\",1,{},[]]"),
    S("[ ]"),
    S("[ 1 ]"),
    S("[ 1 , 2 ]"),
    S("[\t1\n,\r2 ]"),
    S("{\"a\":1}"),
    S("{\"a\":1,\"b\":2}"),
    S("{ \"a\" : 1 }"),
    S("{\n\"a\"\n:\n1\n,\n\"b\"\n:\n2\n}"),
    S("{\"\":1}"),
    S("{\"a\":{}}"),
    S("{\"a\":[]}"),
    S("{\"a\":{\"a\":{\"a\":1}}}"),
    S("{\"\\u0061\":1}"),
    S("{\"a\\u0000b\":1}"),
    S("{\"a\":1,\"a\":2}"),
    S(" 1"),
    S("1 "),
    S(" \t\r\n1\n\r\t "),
    S("{}\r"),
    S("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
};

static const Text bad[] = {
    S(""),
    S(" "),
    S("\n"),
    S("\0"),
    S("1\0"),
    S("\0001"),
    S("{}\0"),
    S("\xef\xbb\xbf{}"),
    S("\xff\xfe{\0}\0"),
    S("nul"),
    S("nullnull"),
    S("Null"),
    S("NULL"),
    S("tru"),
    S("TRUE"),
    S("True"),
    S("fals"),
    S("truefalse"),
    S("undefined"),
    S("NaN"),
    S("-NaN"),
    S("Infinity"),
    S("-Infinity"),
    S("inf"),
    S("+1"),
    S("-"),
    S("--1"),
    S("- 1"),
    S("00"),
    S("01"),
    S("-01"),
    S("007"),
    S("0x10"),
    S("0b1"),
    S("1."),
    S("1.e1"),
    S(".5"),
    S("-.5"),
    S("1e"),
    S("1e+"),
    S("1e-"),
    S("1e1.5"),
    S("1ee1"),
    S("1.2.3"),
    S("1_000"),
    S("1,000"),
    S("1 2"),
    S("1a"),
    S("12x"),
    S("1/2"),
    S("0 1"),
    S("\""),
    S("\"a"),
    S("\"\\\""),
    S("\"a\"b"),
    S("\"a\"\"b\""),
    S("'a'"),
    S("`a`"),
    S("a"),
    S("\"\n\""),
    S("\"\t\""),
    S("\"\r\""),
    S("\"\0\""),
    S("\"\x01\""),
    S("\"\x1f\""),
    S("\"\\a\""),
    S("\"\\x41\""),
    S("\"\\0\""),
    S("\"\\\0\""),
    S("\"\\'\""),
    S("\"\\U0041\""),
    S("\"\\\n\""),
    S("\"\\u\""),
    S("\"\\u1\""),
    S("\"\\u12\""),
    S("\"\\u123\""),
    S("\"\\u123g\""),
    S("\"\\u-123\""),
    S("\"\\u 123\""),
    S("\"\\u+123\""),
    S("\"\\ud800\""),
    S("\"\\udbff\""),
    S("\"\\udc00\""),
    S("\"\\udfff\""),
    S("\"\\ud800a\""),
    S("\"\\ud800\\n\""),
    S("\"\\ud800\\u0041\""),
    S("\"\\ud800\\ud800\""),
    S("\"\\ud800\\ue000\""),
    S("\"\\udc00\\ud800\""),
    S("\"\\ud800\\u\""),
    S("\"\\ud800\\udc0\""),
    S("\"\x80\""),
    S("\"\xbf\""),
    S("\"\xc0\x80\""),
    S("\"\xc0\xaf\""),
    S("\"\xc1\xbf\""),
    S("\"\xc2\""),
    S("\"\xc2 \""),
    S("\"\xc2\xc2\""),
    S("\"\xe0\x80\x80\""),
    S("\"\xe0\x9f\xbf\""),
    S("\"\xe2\x82\""),
    S("\"\xe2\x82 \""),
    S("\"\xed\xa0\x80\""),
    S("\"\xed\xbf\xbf\""),
    S("\"\xed\xa0\x80\xed\xb0\x80\""),
    S("\"\xf0\x80\x80\x80\""),
    S("\"\xf0\x8f\xbf\xbf\""),
    S("\"\xf0\x9f\x98\""),
    S("\"\xf4\x90\x80\x80\""),
    S("\"\xf5\x80\x80\x80\""),
    S("\"\xf8\x88\x80\x80\x80\""),
    S("\"\xfe\""),
    S("\"\xff\""),
    S("\"\xc3"),
    S("\xc3\xa9"),
    S("["),
    S("]"),
    S("[1"),
    S("[1,"),
    S("[1,]"),
    S("[,]"),
    S("[,1]"),
    S("[1,,2]"),
    S("[1 2]"),
    S("[1;2]"),
    S("[1}"),
    S("[1:2]"),
    S("[]]"),
    S("[][]"),
    S("[],"),
    S("[\"a\""),
    S("[a]"),
    S("[1] x"),
    S("[//]"),
    S("[/**/]"),
    S("{"),
    S("}"),
    S("{}}"),
    S("{]"),
    S("{,}"),
    S("{\"a\"}"),
    S("{\"a\":}"),
    S("{\"a\":1"),
    S("{\"a\":1,}"),
    S("{\"a\":1,,\"b\":2}"),
    S("{,\"a\":1}"),
    S("{\"a\":1 \"b\":2}"),
    S("{\"a\" 1}"),
    S("{\"a\"::1}"),
    S("{\"a\"=1}"),
    S("{\"a\",1}"),
    S("{a:1}"),
    S("{'a':1}"),
    S("{1:1}"),
    S("{null:1}"),
    S("{[]:1}"),
    S("{\"a\":1]"),
    S("{\"a\":1;}"),
    S("{\"a\":'b'}"),
    S("{\"a\":01}"),
    S("{\"a\":NaN}"),
    S("{\"a\n\":1}"),
    S("{\"a\\ud800\":1}"),
    S("{\"a\xff\":1}"),
    S("{} {}"),
    S("{}{}"),
    S("{}x"),
    S("{}//"),
    S("/* */{}"),
    S("#{}"),
    S("\v1"),
    S("\f1"),
    S("1\v"),
    S("\xc2\xa0{}"),
    S("\xe2\x80\x8b{}"),
    S("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
};

static GArray *new_findings(void)
{
    return g_array_new(FALSE, FALSE, sizeof(ScanFinding));
}

/* In memory of its own, so that AddressSanitizer sees a read past its end. */
static bool scan(const char *text, size_t length, Slice *ret_value, GArray *findings, char **copy)
{
    ScanError error = {0};
    *copy = g_memdup2(length ? text : "x", length ? length : 1);
    bool result = scan_text(*copy, length, ret_value, findings, &error);
    if (!result) {
        assert_non_null(error.text);
        assert_true(error.offset <= length);
    }
    return result;
}

static void test_good(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GArray) findings = new_findings();
        g_autofree char *copy = NULL;
        Slice value;
        if (!scan(good[i].text, good[i].length, &value, findings, &copy))
            fail_msg("refused: %s", good[i].text);
    }
}

static void test_bad(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GArray) findings = new_findings();
        g_autofree char *copy = NULL;
        Slice value;
        if (scan(bad[i].text, bad[i].length, &value, findings, &copy))
            fail_msg("row %zu passed: %s", i, bad[i].text);
    }
}

/* Every beginning of a good text but the whole is bad, unless a number or the like ends there. */
static void test_cut_short(void **state)
{
    const char *text = "{\"a\":[1,{\"b\":\"\\ud83d\\ude00\xe2\x82\xac\"},true],\"c\":-1.5e+3}";
    for (size_t length = 0; length < strlen(text); length++) {
        g_autoptr(GArray) findings = new_findings();
        g_autofree char *copy = NULL;
        Slice value;
        assert_false(scan(text, length, &value, findings, &copy));
    }
}

/* What the scanner has passed, json-c takes too: or requests would end as internal errors. */
static void test_json_c_agrees(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GArray) findings = new_findings();
        g_autofree char *copy = NULL;
        Slice value;
        assert_true(scan(good[i].text, good[i].length, &value, findings, &copy));
        if (scan_type(value) != '{' || findings->len > 0)
            continue;
        struct json_tokener *tokener = json_tokener_new_ex(SCAN_DEPTH + 1);
        struct json_object *object = json_tokener_parse_ex(tokener, value.start, (int)value.length);
        assert_non_null(object);
        json_object_put(object);
        json_tokener_free(tokener);
    }
}

typedef struct {
    const char *text;
    ScanKind kind;
    const char *path;
} Found;

static const Found found[] = {
    {"{\"a\":1,\"a\":2}", SCAN_DUPLICATE_KEY, "/a"},
    {"{\"a\":1,\"\\u0061\":2}", SCAN_DUPLICATE_KEY, "/a"},
    {"{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"b\":5}", SCAN_DUPLICATE_KEY, "/b"},
    {"{\"\":1,\"\":2}", SCAN_DUPLICATE_KEY, "/"},
    {"{\"\\u20ac\":1,\"\xe2\x82\xac\":2}", SCAN_DUPLICATE_KEY, "/\xe2\x82\xac"},
    {"{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}", SCAN_DUPLICATE_KEY, "/\xf0\x9f\x98\x80"},
    {"{\"x\":{\"a\":1,\"a\":2}}", SCAN_DUPLICATE_KEY, "/x/a"},
    {"{\"x\":[0,{\"a\":1,\"a\":2}]}", SCAN_DUPLICATE_KEY, "/x/1/a"},
    {"{\"a/b\":1,\"a/b\":2}", SCAN_DUPLICATE_KEY, "/a~1b"},
    {"{\"a~b\":1,\"a~b\":2}", SCAN_DUPLICATE_KEY, "/a~0b"},
    {"{\"a\\u0000\":1}", SCAN_NUL_IN_KEY, "/a"},
    {"{\"x\":{\"\\u0000\":1}}", SCAN_NUL_IN_KEY, "/x/"},
    {"{\"a\":18446744073709551616}", SCAN_INEXACT, "/a"},
    {"{\"a\":-9223372036854775809}", SCAN_INEXACT, "/a"},
    {"[[99999999999999999999999999]]", SCAN_INEXACT, "/0/0"},
    {"18446744073709551616", SCAN_INEXACT, ""},
};

static void test_findings(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(found); i++) {
        g_autoptr(GArray) findings = new_findings();
        g_autofree char *copy = NULL;
        Slice value;
        assert_true(scan(found[i].text, strlen(found[i].text), &value, findings, &copy));
        if (findings->len != 1)
            fail_msg("%u findings: %s", findings->len, found[i].text);
        const ScanFinding *finding = &g_array_index(findings, ScanFinding, 0);
        assert_int_equal(finding->kind, found[i].kind);
        g_autofree char *path = scan_path(value, finding->at, "");
        assert_string_equal(path, found[i].path);
    }
}

static const char *const nothing_found[] = {
    "{\"a\":1,\"b\":{\"a\":1}}",
    "[{\"a\":1},{\"a\":1}]",
    "{\"a\":{\"b\":1},\"b\":2}",
    "{\"a\":18446744073709551615,\"b\":-9223372036854775808,\"c\":0}",
    "{\"a\":1e400,\"b\":18446744073709551616.0,\"c\":1e30}",
    "{\"a\":\"\\u0000\"}",
    "{\"a\":1,\"A\":2,\"aa\":3,\"\":4}",
};

static void test_nothing_found(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(nothing_found); i++) {
        g_autoptr(GArray) findings = new_findings();
        g_autofree char *copy = NULL;
        Slice value;
        assert_true(scan(nothing_found[i], strlen(nothing_found[i]), &value, findings, &copy));
        if (findings->len != 0)
            fail_msg("found something: %s", nothing_found[i]);
    }
}

/* Several findings come in the order of their places, whatever the scanner found first. */
static void test_findings_in_order(void **state)
{
    const char *text = "{\"a\":1,\"x\":{\"b\":1,\"b\":99999999999999999999},\"a\":1}";
    g_autoptr(GArray) findings = new_findings();
    g_autofree char *copy = NULL;
    Slice value;
    assert_true(scan(text, strlen(text), &value, findings, &copy));
    assert_int_equal(findings->len, 3);
    for (guint i = 1; i < findings->len; i++)
        assert_true(g_array_index(findings, ScanFinding, i - 1).at <
                    g_array_index(findings, ScanFinding, i).at);
}

static void test_members(void **state)
{
    const char *text =
        " { \"a\" : [ 1 , {\"]\":2} ] ,\"b}\\\"\":\"x,]\" , \"c\":-1.5e3,\"d\":null } ";
    const char *keys[] = {"a", "b}\"", "c", "d"};
    const char *values[] = {"[ 1 , {\"]\":2} ]", "\"x,]\"", "-1.5e3", "null"};
    g_autoptr(GArray) findings = new_findings();
    g_autofree char *copy = NULL;
    Slice value, key, member;
    assert_true(scan(text, strlen(text), &value, findings, &copy));
    ScanCursor cursor = scan_enter(value);
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        assert_true(scan_next_member(&cursor, &key, &member));
        assert_true(scan_string_equals(key, keys[i]));
        assert_int_equal(member.length, strlen(values[i]));
        assert_memory_equal(member.start, values[i], member.length);
    }
    assert_false(scan_next_member(&cursor, &key, &member));
}

static void test_strings(void **state)
{
    const char *text = "\"a\\n\\u0041\\ud83d\\ude00\\u0000b\\/\"";
    const char expected[] = "a\nA\xf0\x9f\x98\x80\0b/";
    Slice slice = {text, strlen(text)};
    GString *out = scan_string(slice);
    assert_int_equal(out->len, sizeof(expected) - 1);
    assert_memory_equal(out->str, expected, out->len);
    g_string_free(out, TRUE);
    assert_false(scan_string_equals(slice, "a\nA\xf0\x9f\x98\x80"));
    assert_true(scan_string_equals((Slice){"\"\\u0032.0\"", 10}, "2.0"));
    assert_false(scan_string_equals((Slice){"2", 1}, "2"));
}

/* A megabyte of the worst: keys that an ordinary hash would let collide, deep nesting, findings
 * without end. Takes a moment, not minutes. */
static void test_large(void **state)
{
    const char *parts[] = {"[{\"a\":1,\"a\":2}", ",{\"a\":1,\"a\":2}", "]"};
    g_autoptr(GString) text = g_string_new(parts[0]);
    while (text->len < 1000000)
        g_string_append(text, parts[1]);
    g_string_append(text, parts[2]);
    g_autoptr(GArray) findings = new_findings();
    ScanError error;
    Slice value;
    assert_true(scan_text(text->str, text->len, &value, findings, &error));
    assert_true(findings->len > 60000);

    g_string_assign(text, "{");
    for (unsigned i = 0; text->len < 1000000; i++) {
        g_string_append(text, i ? ",\"" : "\"");
        for (unsigned bit = 0; bit < 16; bit++) /* "Ez" and "FY" are one to g_str_hash */
            g_string_append(text, i & (1u << bit) ? "Ez" : "FY");
        g_string_append(text, "\":1");
    }
    g_string_append(text, "}");
    g_array_set_size(findings, 0);
    assert_true(scan_text(text->str, text->len, &value, findings, &error));
    assert_int_equal(findings->len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_json_c_agrees),
        cmocka_unit_test(test_findings),
        cmocka_unit_test(test_nothing_found),
        cmocka_unit_test(test_findings_in_order),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
