#include "daemon/control/dispatch.h"
#include "daemon/control/call_state.h"
#include "daemon/control/params.h"
#include "daemon/control/request.h"
#include "daemon/core/api_error.h"

#include <stdlib.h>
#include <string.h>

/* How long a single mutation waits for writes in flight and for other changes of its disks;
 * `transaction` has a parameter for it. */
#define ACTION_SECONDS 10

/* Requests in one batch. What is none is answered, too: a line of `1,1,1...` would have an answer
 * of a hundred times its length. */
#define BATCH_MOST 4096

static int compare_method(const void *key, const void *row)
{
    return strcmp(key, ((const ApiMethod *)row)->name);
}

const ApiMethod *dispatch_find(const Dispatcher *dispatcher, const char *name)
{
    return bsearch(name, dispatcher->methods, dispatcher->method_count, sizeof(ApiMethod),
                   compare_method);
}

static const ApiMethod *find_for_codec(const char *name, gpointer data)
{
    return dispatch_find(data, name);
}

/* --- errors --- */

static Fault fault_from_error(GError *error)
{
    GError *api = NULL;
    api_error_propagate(&api, error, NULL); /* of whatever domain it was */
    Fault fault = {(ErrorKind)api->code, g_strdup(api_error_path(api)), g_strdup(api->message)};
    g_error_free(api);
    return fault;
}

static Fault fault_new(ErrorKind kind, const char *path, char *text)
{
    return (Fault){kind, g_strdup(path), text};
}

/* --- one request --- */

/* A method of transactions that is called by itself: a transaction of one. */
static bool run_one_action(const Call *call, const ApiMethod *method, void *params, void *result,
                           GError **error)
{
    ApiAction action = {method, params, result}, *actions[] = {&action};
    gint64 deadline = g_get_monotonic_time() + ACTION_SECONDS * G_USEC_PER_SEC;
    size_t failed;
    return call->dispatcher->run_actions(call->dispatcher->registry, actions, 1, deadline,
                                         method->is_dry_run && method->is_dry_run(params), &failed,
                                         error);
}

static bool run_method(Call *call, const ApiMethod *method, void *params, void *result,
                       GError **error)
{
    switch (method->kind) {
    case API_METHOD_PLAIN:
    case API_METHOD_CONTROL:
        return method->call(call, params, result, error);
    case API_METHOD_TRANSACTION:
        if (method->is_plain && method->is_plain(params))
            return method->call(call, params, result, error);
        return run_one_action(call, method, params, result, error);
    }
    g_assert_not_reached();
}

/* Runs the method with decoded parameters; the answer's result is appended to out. */
static bool run_and_encode(Call *call, const ApiMethod *method, void *params, Slice id,
                           GString *out, Fault *ret_fault)
{
    g_autofree void *result = g_malloc0(method->result->size);
    GError *error = NULL;
    bool good = run_method(call, method, params, result, &error);
    if (good) {
        reply_begin_result(out, id);
        if (method->json_result)
            g_string_append(out, *(char **)result); /* the only member: see api_json_result */
        else
            api_encode(method->result, result, out);
        reply_end(out);
    } else {
        *ret_fault = fault_from_error(error);
    }
    api_clear(method->result, result);
    return good;
}

static bool check_access(const Call *call, const ApiMethod *method, const char *path,
                         Fault *ret_fault)
{
    if (call->caller.access >= method->access)
        return true;
    char *text =
        g_strdup_printf("%s needs the access level %s, this connection has %s", method->name,
                        api_access_name(method->access), api_access_name(call->caller.access));
    *ret_fault = fault_new(ERROR_DENIED, path, text);
    return false;
}

static bool answer_request(Call *call, const Request *request, GString *out, Fault *ret_fault)
{
    const ApiMethod *method = dispatch_find(call->dispatcher, request->method);
    if (!method) {
        g_autofree char *name =
            g_utf8_substring(request->method, 0, MIN(g_utf8_strlen(request->method, -1), 64));
        *ret_fault =
            fault_new(ERROR_METHOD_NOT_FOUND, "/method",
                      g_strdup_printf("there is no method `%s`; rpc.discover lists them", name));
        return false;
    }
    if (!check_access(call, method, "/method", ret_fault))
        return false;
    struct json_object *value;
    if (!params_parse(request->params, &value)) {
        *ret_fault =
            fault_new(ERROR_LIMIT, "/params", g_strdup("there is no memory for the parameters"));
        return false;
    }
    g_autofree void *params = g_malloc0(method->params->size);
    ApiLookup lookup = {find_for_codec, (gpointer)call->dispatcher};
    ApiProblem problem = {0};
    bool good = api_decode(method->params, value, "/params", &lookup, params, &problem);
    json_object_put(value);
    if (!good) {
        *ret_fault = (Fault){ERROR_INVALID_PARAMS, problem.path, problem.text};
        return false;
    }
    good = run_and_encode(call, method, params, request->id, out, ret_fault);
    api_clear(method->params, params);
    return good;
}

/* Appends the answer to one request of a line, and answers whether there is one. */
static bool answer_one(Call *call, Slice text, const GArray *findings, bool full, GString *out)
{
    Request request;
    Fault fault = {0};
    gsize before = out->len;
    bool good = request_parse(text, findings, &request, &fault);
    /* JSON-RPC 2.0, section 4.1: no answer, not even an error; what is no request always gets one.
     */
    bool silent = request.notification && (good || fault.kind == ERROR_INVALID_PARAMS);
    if (good && full) {
        fault = fault_new(ERROR_LIMIT, "",
                          g_strdup("not run: the answers to this batch are too long already"));
        good = false;
    } else if (good) {
        good = answer_request(call, &request, out, &fault);
    }
    if (!good)
        reply_fault(out, request.id, &fault);
    if (silent)
        g_string_truncate(out, before);
    fault_clear(&fault);
    request_clear(&request);
    return !silent;
}

/* --- lines --- */

static void answer_batch(Call *call, Slice batch, const GArray *findings, GString *out)
{
    gsize start = out->len;
    bool any = false;
    Slice item;
    ScanCursor cursor = scan_enter(batch);
    while (scan_next_element(&cursor, &item)) {
        gsize before = out->len;
        g_string_append_c(out, any ? ',' : '[');
        if (answer_one(call, item, findings, before - start >= call->dispatcher->batch_bytes, out))
            any = true;
        else
            g_string_truncate(out, before);
    }
    if (any)
        g_string_append(out, "]\n");
}

static size_t count_requests(Slice batch)
{
    ScanCursor cursor = scan_enter(batch);
    Slice item;
    size_t count = 0;
    while (scan_next_element(&cursor, &item))
        count++;
    return count;
}

static void answer_fault(GString *out, ErrorKind kind, char *text)
{
    Fault fault = fault_new(kind, "", text);
    reply_fault(out, (Slice){0}, &fault);
    g_string_append_c(out, '\n');
    fault_clear(&fault);
}

void dispatch_line(const Dispatcher *dispatcher, const Caller *caller, const char *line,
                   size_t length, GString *answer, Effects *ret_effects)
{
    Call call = {dispatcher, *caller, ret_effects};
    g_autoptr(GArray) findings = g_array_new(FALSE, FALSE, sizeof(ScanFinding));
    Slice text;
    ScanError error;
    *ret_effects = (Effects){0};
    bool json = scan_text(line, length, &text, findings, &error);
    bool batch = json && scan_type(text) == '[';
    size_t count = batch ? count_requests(text) : 1;
    if (!json)
        answer_fault(answer, ERROR_PARSE_ERROR,
                     g_strdup_printf("not JSON at byte %zu: %s", error.offset, error.text));
    else if (count == 0)
        answer_fault(answer, ERROR_INVALID_REQUEST, g_strdup("a batch must not be empty"));
    else if (count > BATCH_MOST)
        answer_fault(
            answer, ERROR_LIMIT,
            g_strdup_printf("a batch has %d requests at most, not %zu", BATCH_MOST, count));
    else if (batch)
        answer_batch(&call, text, findings, answer);
    else if (answer_one(&call, text, findings, false, answer))
        g_string_append_c(answer, '\n');
}

static bool is_inline_request(const Dispatcher *dispatcher, Slice text, const GArray *findings)
{
    Request request;
    Fault fault = {0};
    bool is_inline = true;
    if (request_parse(text, findings, &request, &fault)) {
        const ApiMethod *method = dispatch_find(dispatcher, request.method);
        is_inline = !method || method->is_inline;
    }
    fault_clear(&fault);
    request_clear(&request);
    return is_inline;
}

bool dispatch_is_inline(const Dispatcher *dispatcher, const char *line, size_t length)
{
    g_autoptr(GArray) findings = g_array_new(FALSE, FALSE, sizeof(ScanFinding));
    Slice text, item;
    ScanError error;
    if (!scan_text(line, length, &text, findings, &error))
        return true;
    if (scan_type(text) != '[')
        return is_inline_request(dispatcher, text, findings);
    ScanCursor cursor = scan_enter(text);
    while (scan_next_element(&cursor, &item)) {
        if (!is_inline_request(dispatcher, item, findings))
            return false;
    }
    return true;
}
