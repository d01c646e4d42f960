/* Lines on the control socket: scanner, JSON-RPC, decoders, encoders. Held against each other:
 * what the scanner passes json-c can read, every answer is one line of JSON, and parameters that
 * were decoded and encoded decode to the same. */
#include "daemon/control/call_state.h"
#include "daemon/control/dispatch.h"
#include "daemon/control/scan.h"
#include "daemon/core/api_error.h"
#include "tests/fuzz/fuzz.h"

#include <json-c/json.h>
#include <string.h>

static const Dispatcher *get_dispatcher(void);

static bool parses(const char *text, size_t length, struct json_object **ret_value)
{
    struct json_tokener *tokener = json_tokener_new_ex(SCAN_DEPTH + 1);
    *ret_value = json_tokener_parse_ex(tokener, text, (int)length);
    enum json_tokener_error status = json_tokener_get_error(tokener);
    json_tokener_free(tokener);
    /* A number may go on, as far as json-c knows. */
    return status == json_tokener_success || status == json_tokener_continue;
}

static const ApiMethod *find(const char *name, gpointer data)
{
    return dispatch_find(get_dispatcher(), name);
}

/* The handler of every method: its parameters must survive a round trip. */
static bool round_trip(const ApiStruct *type, const void *params, GError **error)
{
    if (type != &api_transaction_params) { /* actions are only decoded */
        g_autofree char *text = api_to_json(type, params);
        g_autofree void *again = g_malloc0(type->size);
        struct json_object *value;
        ApiProblem problem = {0};
        ApiLookup lookup = {find, NULL};
        if (!parses(text, strlen(text), &value))
            fuzz_fail("encoded parameters do not parse");
        if (!api_decode(type, value, "/params", &lookup, again, &problem))
            fuzz_fail(problem.text);
        g_autofree char *second = api_to_json(type, again);
        if (strcmp(text, second) != 0)
            fuzz_fail("a round trip changes parameters");
        api_clear(type, again);
        json_object_put(value);
    }
    api_error_set(error, ERROR_CANCELLED, "/params", "fuzzed");
    return false;
}

#define METHOD(method)                                                                             \
    static bool call_##method(Call *call, const void *params, void *result, GError **error)        \
    {                                                                                              \
        return round_trip(&api_##method##_params, params, error);                                  \
    }
METHOD(bitmap_add)
METHOD(bitmap_extents)
METHOD(bitmap_merge)
METHOD(disk_add)
METHOD(disk_list)
METHOD(event_subscribe)
METHOD(export_add)
METHOD(export_remove)
METHOD(export_set)
METHOD(listener_add)
METHOD(transaction)

static bool run_actions(Registry *registry, ApiAction *const *actions, size_t count,
                        gint64 deadline, bool dry_run, size_t *ret_failed, GError **error)
{
    *ret_failed = 0;
    return round_trip(actions[0]->method->params, actions[0]->params, error);
}

#define ROW(dotted, method, kind_)                                                                 \
    {                                                                                              \
        .name = dotted, .access = API_ACCESS_READ, .kind = kind_,                                  \
        .params = &api_##method##_params, .result = &api_removed_object, .call = call_##method     \
    }

static const ApiMethod methods[] = {
    ROW("bitmap.add", bitmap_add, API_METHOD_TRANSACTION),
    ROW("bitmap.extents", bitmap_extents, API_METHOD_PLAIN),
    ROW("bitmap.merge", bitmap_merge, API_METHOD_TRANSACTION),
    ROW("disk.add", disk_add, API_METHOD_TRANSACTION),
    ROW("disk.list", disk_list, API_METHOD_PLAIN),
    ROW("event.subscribe", event_subscribe, API_METHOD_PLAIN),
    ROW("export.add", export_add, API_METHOD_TRANSACTION),
    ROW("export.remove", export_remove, API_METHOD_PLAIN),
    ROW("export.set", export_set, API_METHOD_TRANSACTION),
    ROW("listener.add", listener_add, API_METHOD_PLAIN),
    ROW("transaction", transaction, API_METHOD_CONTROL),
};

static const Dispatcher dispatcher = {.methods = methods,
                                      .method_count = G_N_ELEMENTS(methods),
                                      .run_actions = run_actions,
                                      .batch_bytes = 100000};

static const Dispatcher *get_dispatcher(void)
{
    return &dispatcher;
}

const char *const *fuzz_words(void)
{
    static const char *const words[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "\"",
                                        "\\",
                                        "null",
                                        "true",
                                        "0",
                                        "-1",
                                        "1e400",
                                        "1.5",
                                        "NaN",
                                        "\\u0000",
                                        "\\ud800",
                                        "\\udc00",
                                        "\\ud83d\\ude00",
                                        "18446744073709551616",
                                        "\"id\":1,",
                                        "\"params\":{",
                                        "\"name\":\"d\",",
                                        "\"disk\":",
                                        "\"method\":\"disk.add\",",
                                        "\"jsonrpc\":\"2.0\",",
                                        "\"dry_run\":true,",
                                        "\"actions\":[",
                                        "\xc3\xa9",
                                        "\xff",
                                        "\n",
                                        NULL};
    return words;
}

static void check_json(const char *text, size_t length, bool must_scan)
{
    g_autoptr(GArray) findings = g_array_new(FALSE, FALSE, sizeof(ScanFinding));
    Slice value;
    ScanError error;
    struct json_object *object = NULL;
    if (!scan_text(text, length, &value, findings, &error)) {
        if (must_scan)
            fuzz_fail("an answer is not JSON");
        return;
    }
    bool nul_in_key = false;
    for (guint i = 0; i < findings->len; i++) {
        const ScanFinding *finding = &g_array_index(findings, ScanFinding, i);
        nul_in_key |= finding->kind == SCAN_NUL_IN_KEY;
        g_free(scan_path(value, finding->at, ""));
    }
    if (!parses(value.start, value.length, &object) && !nul_in_key)
        fuzz_fail("the scanner passes what json-c does not");
    json_object_put(object);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    const Caller caller = {API_ACCESS_ADMIN, 0, 1};
    Effects effects;
    g_autoptr(GString) answer = g_string_new(NULL);
    check_json((const char *)data, size, false);
    dispatch_is_inline(&dispatcher, (const char *)data, size);
    dispatch_line(&dispatcher, &caller, (const char *)data, size, answer, &effects);
    if (answer->len == 0)
        return;
    if (strlen(answer->str) != answer->len ||
        strchr(answer->str, '\n') != answer->str + answer->len - 1)
        fuzz_fail("an answer is not one line");
    check_json(answer->str, answer->len, true);
}
