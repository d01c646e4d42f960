/* daemon/control/dispatch: a line in, its answer out, byte for byte where JSON-RPC 2.0 decides. */
#include "daemon/control/call_state.h"
#include "daemon/control/dispatch.h"
#include "daemon/core/api_error.h"
#include "schema/handlers.h"
#include "tests/unit/check.h"

#include <string.h>

/* --- a small API --- */

static unsigned shown, ran, dry; /* how often */

static bool show(Call *call, const void *params, void *result, GError **error)
{
    const DiskShowParams *show_params = params;
    RemovedObject *removed = result;
    shown++;
    if (strcmp(show_params->name, "missing") == 0) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "there is no disk %s",
                      show_params->name);
        return false;
    }
    removed->name = g_strdup(show_params->name);
    removed->removed = call_access(call) == API_ACCESS_ADMIN;
    return true;
}

static bool is_dry(const void *params)
{
    return ((const DiskRemoveParams *)params)->dry_run;
}

static bool fake_transaction(Call *call, const void *params, void *result, GError **error)
{
    return control_transaction(call, params, result, error);
}

static bool dry_transaction(const void *params)
{
    return ((const TransactionParams *)params)->dry_run;
}

static bool big(Call *call, const void *params, void *result, GError **error)
{
    *(char **)result = g_strnfill(1000, '1');
    return true;
}

static const ApiMethod methods[] = {
    {.name = "big",
     .access = API_ACCESS_READ,
     .is_inline = true,
     .json_result = true,
     .params = &api_daemon_info_params,
     .result = &api_json_result,
     .call = big},
    {.name = "disk.remove",
     .access = API_ACCESS_ADMIN,
     .kind = API_METHOD_TRANSACTION,
     .params = &api_disk_remove_params,
     .result = &api_removed_object,
     .is_dry_run = is_dry},
    {.name = "disk.show",
     .access = API_ACCESS_READ,
     .is_inline = true,
     .params = &api_disk_show_params,
     .result = &api_removed_object,
     .call = show},
    {.name = "transaction",
     .access = API_ACCESS_OPERATE,
     .kind = API_METHOD_CONTROL,
     .params = &api_transaction_params,
     .result = &api_transaction_result,
     .call = fake_transaction,
     .is_dry_run = dry_transaction},
};

/* Removes any disk but "kept", and nothing at all when one of them is kept. */
static bool run_actions(Registry *registry, ApiAction *const *actions, size_t count,
                        gint64 deadline, bool dry_run, size_t *ret_failed, GError **error)
{
    ran++;
    dry += dry_run;
    assert_true(deadline > g_get_monotonic_time());
    for (size_t i = 0; i < count; i++) {
        const DiskRemoveParams *params = actions[i]->params;
        RemovedObject *result = actions[i]->result;
        if (strcmp(params->name, "kept") == 0) {
            *ret_failed = i;
            api_error_set(error, ERROR_BUSY, "/params/name", "it is kept");
            return false;
        }
        if (strcmp(params->name, "late") == 0) {
            *ret_failed = count;
            api_error_set(error, ERROR_TIMEOUT, NULL, "too late");
            return false;
        }
        result->name = g_strdup(params->name);
        result->removed = true;
    }
    return true;
}

static const Dispatcher dispatcher = {.methods = methods,
                                      .method_count = G_N_ELEMENTS(methods),
                                      .run_actions = run_actions,
                                      .batch_bytes = 4000};

static char *answer_as(ApiAccess access, const char *line, size_t length)
{
    GString *out = g_string_new(NULL);
    Effects effects;
    Caller caller = {access, 1000, 1};
    g_autofree char *copy = g_memdup2(length ? line : "x", length ? length : 1);
    dispatch_line(&dispatcher, &caller, copy, length, out, &effects);
    assert_false(effects.subscribe);
    return g_string_free(out, FALSE);
}

static char *answer(const char *line)
{
    return answer_as(API_ACCESS_ADMIN, line, strlen(line));
}

static void expect(const char *line, const char *expected)
{
    g_autofree char *got = answer(line);
    if (strcmp(got, expected) != 0)
        fail_msg("%s\n  answers %s  not     %s", line, got, expected);
}

#define OK(id) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"result\":{\"name\":\"d\",\"removed\":true}}"
#define SHOW   "\"method\":\"disk.show\",\"params\":{\"name\":\"d\"}"

/* Part of the answer to line: the id, code, kind and path of an error. */
static void expect_error(const char *line, const char *id, int code, const char *kind,
                         const char *path)
{
    g_autofree char *got = answer(line);
    g_autofree char *begin = g_strdup_printf(
        "{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":%d,\"message\":", id, code);
    g_autofree char *data = g_strdup_printf("\"data\":{\"kind\":\"%s\",\"detail\":", kind);
    g_autofree char *end = g_strdup_printf("\"path\":\"%s\"}}}\n", path);
    if (!g_str_has_prefix(got, begin) || !strstr(got, data) || !g_str_has_suffix(got, end))
        fail_msg("%s\n  answers %s  not     %s...%s...%s", line, got, begin, data, end);
}

static void test_ids(void **state)
{
    const char *ids[] = {
        "1",
        "0",
        "-1",
        "1.5",
        "1e2",
        "-0",
        "1E+2",
        "0.10",
        "null",
        "\"a\"",
        "\"\"",
        "\"\\u0041\\n\"",
        "123456789012345678901234567890",
        "-99999999999999999999",
        "\"\\u0000\"",
        "\"1\"",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *line = g_strdup_printf("{\"jsonrpc\":\"2.0\",\"id\":%s," SHOW "}", ids[i]);
        g_autofree char *expected = g_strdup_printf(
            "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"name\":\"d\",\"removed\":true}}\n",
            ids[i]);
        expect(line, expected);
    }
}

static void test_requests(void **state)
{
    expect("{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "}", OK("1") "\n");
    expect(" {\r\"id\" : 1 ,\t" SHOW ", \"jsonrpc\" : \"2.0\" } ", OK("1") "\n");
    expect("{\"\\u006asonrpc\":\"2\\u002e0\",\"id\":1," SHOW "}", OK("1") "\n");
    expect(
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\u0064isk.show\",\"params\":{\"n\\u0061me\":"
        "\"\\u0064\"}}",
        OK("1") "\n");
}

static void test_parse_errors(void **state)
{
    const char *lines[] = {"",
                           " ",
                           "x",
                           "{",
                           "{\"jsonrpc\":\"2.0\",\"id\":1," SHOW ",}",
                           "{\"jsonrpc\":\"2.0\",\"id\":1}}",
                           "[1,]",
                           "\xff"};
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++)
        expect_error(lines[i], "null", -32700, "parse-error", "");
}

typedef struct {
    const char *line, *id, *path;
} Invalid;

static void test_invalid_requests(void **state)
{
    const Invalid rows[] = {
        {"1", "null", ""},
        {"\"a\"", "null", ""},
        {"null", "null", ""},
        {"true", "null", ""},
        {"{}", "null", "/jsonrpc"},
        {"[]", "null", ""},
        {"[ ]", "null", ""},
        {"{\"id\":7}", "7", "/jsonrpc"},
        {"{\"jsonrpc\":2.0,\"id\":7," SHOW "}", "7", "/jsonrpc"},
        {"{\"jsonrpc\":\"1.0\",\"id\":7," SHOW "}", "7", "/jsonrpc"},
        {"{\"jsonrpc\":\"2.0\\u0000\",\"id\":7," SHOW "}", "7", "/jsonrpc"},
        {"{\"jsonrpc\":null,\"id\":7," SHOW "}", "7", "/jsonrpc"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7}", "7", "/method"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":1}", "7", "/method"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":null}", "7", "/method"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":[\"disk.show\"]}", "7", "/method"},
        {"{\"jsonrpc\":\"2.0\",\"id\":{}," SHOW "}", "null", "/id"},
        {"{\"jsonrpc\":\"2.0\",\"id\":[1]," SHOW "}", "null", "/id"},
        {"{\"jsonrpc\":\"2.0\",\"id\":true," SHOW "}", "null", "/id"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"disk.show\",\"params\":1}", "7", "/params"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"disk.show\",\"params\":null}", "7", "/params"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"disk.show\",\"params\":\"d\"}", "7",
         "/params"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"extra\":1}", "7", "/extra"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"jsonrpc\":\"2.0\"}", "7", "/jsonrpc"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"id\":8}", "null", "/id"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"id\":7}", "null", "/id"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"method\":\"disk.show\"}", "7", "/method"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"params\":{}}", "7", "/params"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7," SHOW ",\"x\\u0000\":1}", "7", "/x"},
        {"{\"foo\":\"boo\"}", "null", "/jsonrpc"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        expect_error(rows[i].line, rows[i].id, -32600, "invalid-request", rows[i].path);
}

#define CALL(params) "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"disk.show\",\"params\":" params "}"

static void test_invalid_params(void **state)
{
    const Invalid rows[] = {
        {CALL("[\"d\"]"), "7", "/params"},
        {CALL("[]"), "7", "/params"},
        {CALL("{}"), "7", "/params/name"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"disk.show\"}", "7", "/params/name"},
        {CALL("{\"name\":\"d\",\"name\":\"d\"}"), "7", "/params/name"},
        {CALL("{\"name\":\"d\",\"n\\u0061me\":\"d\"}"), "7", "/params/name"},
        {CALL("{\"name\\u0000\":\"d\"}"), "7", "/params/name"},
        {CALL("{\"name\":\"d\",\"other\":1}"), "7", "/params/other"},
        {CALL("{\"name\":99999999999999999999}"), "7", "/params/name"},
        {CALL("{\"name\":\"d\",\"x\":{\"y\":[-99999999999999999999]}}"), "7", "/params/x/y/0"},
        {CALL("{\"name\":\"d\",\"x\":{\"y\":1,\"y\":2}}"), "7", "/params/x/y"},
        {CALL("{\"name\":\"d\\u0000\"}"), "7", "/params/name"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        expect_error(rows[i].line, rows[i].id, -32602, "invalid-params", rows[i].path);
}

static void test_unknown_methods(void **state)
{
    const char *names[] = {"nope",      "",           "disk.sho",         "disk.showx",
                           "Disk.show", "disk.show ", "disk.show\\u0000", "rpc.nothing"};
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *line =
            g_strdup_printf("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"%s\"}", names[i]);
        expect_error(line, "7", -32601, "method-not-found", "/method");
    }
}

static void test_handler_errors(void **state)
{
    expect_error(CALL("{\"name\":\"missing\"}"), "7", 1001, "not-found", "/params/name");
}

static void test_notifications(void **state)
{
    shown = 0;
    expect("{\"jsonrpc\":\"2.0\"," SHOW "}", "");
    assert_int_equal(shown, 1);
    /* No answer, not even for errors ... */
    expect("{\"jsonrpc\":\"2.0\",\"method\":\"nope\"}", "");
    expect("{\"jsonrpc\":\"2.0\",\"method\":\"disk.show\"}", "");
    expect("{\"jsonrpc\":\"2.0\",\"method\":\"disk.show\",\"params\":[1]}", "");
    expect("{\"jsonrpc\":\"2.0\",\"method\":\"disk.show\",\"params\":{\"name\":\"missing\"}}", "");
    expect("{\"jsonrpc\":\"2.0\",\"method\":\"disk.show\",\"params\":{\"name\":1,\"name\":2}}", "");
    /* ... but to what is no request at all. */
    expect_error("{\"jsonrpc\":\"2.0\"}", "null", -32600, "invalid-request", "/method");
}

static void test_batches(void **state)
{
    expect("[{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "}]", "[" OK("1") "]\n");
    expect("[{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "},{\"jsonrpc\":\"2.0\"," SHOW
           "}, {\"jsonrpc\":\"2.0\",\"id\":\"x\"," SHOW "}]",
           "[" OK("1") "," OK("\"x\"") "]\n");
    shown = 0;
    expect("[{\"jsonrpc\":\"2.0\"," SHOW "},{\"jsonrpc\":\"2.0\"," SHOW "}]", "");
    assert_int_equal(shown, 2);
    /* One bad request spoils no other; a finding is blamed on its own request. */
    g_autofree char *mixed = answer(
        "[1,{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"disk.show\",\"params\":{\"name\":\"d\","
        "\"name\":\"d\"}},{\"jsonrpc\":\"2.0\",\"id\":2," SHOW "},[]]");
    assert_true(
        g_str_has_prefix(mixed, "[{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600"));
    assert_non_null(strstr(mixed, "},{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32602"));
    assert_non_null(strstr(mixed, "}}}," OK("2") ",{\"jsonrpc\":\"2.0\",\"id\":null,\"error\""));
    assert_true(g_str_has_suffix(mixed, "}}}]\n"));
}

/* The answers to a batch are bounded: behind the bound nothing is run. */
static void test_batch_bound(void **state)
{
    g_autoptr(GString) line = g_string_new("[");
    for (int i = 0; i < 10; i++)
        g_string_append(line, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"big\"},");
    g_string_append(line, "{\"jsonrpc\":\"2.0\",\"id\":2," SHOW "}]");
    shown = 0;
    g_autofree char *got = answer(line->str);
    assert_int_equal(shown, 0);
    assert_true(strlen(got) < 8000);
    assert_non_null(strstr(got, "\"id\":2,\"error\":{\"code\":1007"));
}

#define REMOVE(name)                                                                               \
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"disk.remove\",\"params\":{\"name\":\"" name "\"}}"

static void test_actions(void **state)
{
    ran = dry = 0;
    expect(REMOVE("d"), OK("1") "\n");
    expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"disk.remove\",\"params\":{\"name\":\"d\","
           "\"dry_run\":true}}",
           OK("1") "\n");
    assert_int_equal(ran, 2);
    assert_int_equal(dry, 1);
    expect_error(REMOVE("kept"), "1", 1003, "busy", "/params/name");
}

#define TRANSACTION(first, second)                                                                 \
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"transaction\",\"params\":{\"actions\":["           \
    "{\"method\":\"disk.remove\",\"params\":{\"name\":\"" first "\"}},"                            \
    "{\"method\":\"disk.remove\",\"params\":{\"name\":\"" second "\"}}]}}"

static void test_transaction(void **state)
{
    ran = 0;
    expect(
        TRANSACTION("a", "b"),
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"results\":[{\"name\":\"a\",\"removed\":true},"
        "{\"name\":\"b\",\"removed\":true}]}}\n");
    assert_int_equal(ran, 1);
    expect_error(TRANSACTION("a", "kept"), "1", 1003, "busy", "/params/actions/1/params/name");
    expect_error(TRANSACTION("late", "b"), "1", 1010, "timeout", "");
    expect_error(TRANSACTION("a", "-"), "1", -32602, "invalid-params",
                 "/params/actions/1/params/name");
}

static void test_access(void **state)
{
    const char *remove = REMOVE("d"), *transaction = TRANSACTION("a", "b");
    ran = 0;
    g_autofree char *denied = answer_as(API_ACCESS_OPERATE, remove, strlen(remove));
    assert_non_null(strstr(denied, "\"code\":1006"));
    assert_non_null(strstr(denied, "needs the access level admin"));
    /* A transaction does not lend its actions the level it needs itself. */
    g_autofree char *inner = answer_as(API_ACCESS_OPERATE, transaction, strlen(transaction));
    assert_non_null(strstr(inner, "\"code\":1006"));
    assert_non_null(strstr(inner, "/params/actions/0/method"));
    g_autofree char *outer = answer_as(API_ACCESS_READ, transaction, strlen(transaction));
    assert_non_null(strstr(outer, "\"path\":\"/method\""));
    assert_int_equal(ran, 0);
    const char *show_line = "{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "}";
    g_autofree char *allowed = answer_as(API_ACCESS_READ, show_line, strlen(show_line));
    assert_non_null(strstr(allowed, "\"removed\":false"));
}

static bool is_inline(const char *line)
{
    return dispatch_is_inline(&dispatcher, line, strlen(line));
}

static void test_inline(void **state)
{
    assert_true(is_inline("{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "}"));
    assert_true(is_inline("nonsense"));
    assert_true(is_inline("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"nope\"}"));
    assert_false(is_inline(REMOVE("d")));
    assert_true(is_inline("[{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "},1]"));
    assert_false(is_inline("[{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "}," REMOVE("d") "]"));
    assert_false(is_inline(TRANSACTION("a", "b")));
}

/* A NUL in the line is not its end. */
static void test_nul(void **state)
{
    const char line[] = "{\"jsonrpc\":\"2.0\",\"id\":1," SHOW "}\0";
    g_autofree char *got = answer_as(API_ACCESS_ADMIN, line, sizeof(line) - 1);
    assert_non_null(strstr(got, "-32700"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_parse_errors),
        cmocka_unit_test(test_invalid_requests),
        cmocka_unit_test(test_invalid_params),
        cmocka_unit_test(test_unknown_methods),
        cmocka_unit_test(test_handler_errors),
        cmocka_unit_test(test_notifications),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_batch_bound),
        cmocka_unit_test(test_actions),
        cmocka_unit_test(test_transaction),
        cmocka_unit_test(test_access),
        cmocka_unit_test(test_inline),
        cmocka_unit_test(test_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
