#include "daemon/control/request.h"

#include <stdarg.h>
#include <string.h>

void fault_clear(Fault *fault)
{
    g_clear_pointer(&fault->path, g_free);
    g_clear_pointer(&fault->text, g_free);
}

void request_clear(Request *request)
{
    g_clear_pointer(&request->method, g_free);
}

G_GNUC_PRINTF(4, 5)
static bool refuse(Fault *fault, ErrorKind kind, const char *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    *fault = (Fault){kind, g_strdup(path), g_strdup_vprintf(format, arguments)};
    va_end(arguments);
    return false;
}

static bool is_inside(Slice slice, const char *at)
{
    return at >= slice.start && at < slice.start + slice.length;
}

/* Index of the first finding that is not before `at`. */
static guint first_finding(const GArray *findings, const char *at)
{
    guint low = 0, high = findings->len;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(findings, ScanFinding, middle).at < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool refuse_param(Fault *fault, Slice params, const ScanFinding *finding)
{
    g_autofree char *path = scan_path(params, finding->at, "/params");
    const char *name = strrchr(path, '/') + 1;
    switch (finding->kind) {
    case SCAN_DUPLICATE_KEY:
        return refuse(fault, ERROR_INVALID_PARAMS, path, "`%s` is given twice", name);
    case SCAN_NUL_IN_KEY:
        return refuse(fault, ERROR_INVALID_PARAMS, path,
                      "`%s` with U+0000 behind it is not known here", name);
    case SCAN_INEXACT:
        break;
    }
    /* The text is not terminated: a number may be the last thing in it. */
    const char *end = params.start + params.length;
    int digits = 0;
    while (finding->at + digits < end &&
           (g_ascii_isdigit(finding->at[digits]) || finding->at[digits] == '-'))
        digits++;
    return refuse(fault, ERROR_INVALID_PARAMS, path,
                  "`%s` is %.*s%s: no integer here is that large", name, MIN(digits, 40),
                  finding->at, digits > 40 ? "..." : "");
}

/* Findings in the parameters are theirs, those in the envelope are the request's; a large number
 * as id is fine, it is only echoed. */
static bool check_findings(Slice text, const Request *request, const GArray *findings, Fault *fault)
{
    for (guint i = first_finding(findings, text.start); i < findings->len; i++) {
        const ScanFinding *finding = &g_array_index(findings, ScanFinding, i);
        if (!is_inside(text, finding->at))
            break;
        if (request->params.length > 0 && is_inside(request->params, finding->at))
            return refuse_param(fault, request->params, finding);
        if (finding->kind == SCAN_INEXACT)
            continue;
        g_autofree char *path = scan_path(text, finding->at, "");
        return refuse(fault, ERROR_INVALID_REQUEST, path, "%s",
                      finding->kind == SCAN_DUPLICATE_KEY ? "a member is there twice"
                                                          : "a key has U+0000 in it");
    }
    return true;
}

static bool is_id(Slice value)
{
    char type = scan_type(value);
    return type == '"' || type == 'n' || type == '-' || g_ascii_isdigit(type);
}

typedef struct {
    Slice version, method, id, params;
    unsigned ids;
    Slice unknown; /* key */
} Members;

static Members read_members(Slice text)
{
    Members members = {0};
    ScanCursor cursor = scan_enter(text);
    Slice key, value;
    while (scan_next_member(&cursor, &key, &value)) {
        if (scan_string_equals(key, "jsonrpc"))
            members.version = value;
        else if (scan_string_equals(key, "method"))
            members.method = value;
        else if (scan_string_equals(key, "params"))
            members.params = value;
        else if (scan_string_equals(key, "id"))
            members.id = value, members.ids++;
        else if (members.unknown.length == 0)
            members.unknown = key;
    }
    return members;
}

static bool check_members(Slice text, const Members *members, Fault *fault)
{
    const ErrorKind kind = ERROR_INVALID_REQUEST;
    if (members->ids > 0 && !is_id(members->id))
        return refuse(fault, kind, "/id", "`id` must be a string, a number or null");
    if (members->version.length == 0)
        return refuse(fault, kind, "/jsonrpc", "`jsonrpc` is missing: it must be \"2.0\"");
    if (!scan_string_equals(members->version, "2.0"))
        return refuse(fault, kind, "/jsonrpc", "`jsonrpc` must be \"2.0\"");
    if (members->method.length == 0)
        return refuse(fault, kind, "/method", "`method` is missing");
    if (scan_type(members->method) != '"')
        return refuse(fault, kind, "/method", "`method` must be a string");
    if (members->unknown.length > 0) {
        g_autofree char *path = scan_path(text, members->unknown.start, "");
        return refuse(fault, kind, path,
                      "a request has `jsonrpc`, `method`, `params` and `id`, nothing else");
    }
    if (members->params.length > 0 && scan_type(members->params) == '[')
        return refuse(fault, ERROR_INVALID_PARAMS, "/params",
                      "parameters go by name: `params` must be an object");
    if (members->params.length > 0 && scan_type(members->params) != '{')
        return refuse(fault, kind, "/params", "`params` must be an object");
    return true;
}

bool request_parse(Slice text, const GArray *findings, Request *ret_request, Fault *ret_fault)
{
    Request request = {0};
    if (scan_type(text) != '{') {
        *ret_request = request;
        return refuse(ret_fault, ERROR_INVALID_REQUEST, "", "a request must be an object");
    }
    Members members = read_members(text);
    if (members.ids == 1 && is_id(members.id))
        request.id = members.id;
    request.notification = members.ids == 0;
    bool good = check_members(text, &members, ret_fault);
    if (good) {
        request.params = members.params;
        good = check_findings(text, &request, findings, ret_fault);
    }
    if (good) {
        GString *method = scan_string(members.method);
        /* With a NUL in it, it is the name of no method. */
        request.method = g_strdup(strlen(method->str) == method->len ? method->str : "");
        g_string_free(method, TRUE);
    }
    *ret_request = request;
    return good;
}

static void append_id(GString *out, Slice id)
{
    if (id.length > 0)
        g_string_append_len(out, id.start, (gssize)id.length);
    else
        g_string_append(out, "null");
}

void reply_begin_result(GString *out, Slice id)
{
    g_string_append(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    append_id(out, id);
    g_string_append(out, ",\"result\":");
}

void reply_end(GString *out)
{
    g_string_append_c(out, '}');
}

void reply_fault(GString *out, Slice id, const Fault *fault)
{
    g_string_append(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    append_id(out, id);
    g_string_append_printf(out, ",\"error\":{\"code\":%d,\"message\":", (int)fault->kind);
    api_encode_string(fault->text, out);
    g_string_append(out, ",\"data\":{\"kind\":");
    api_encode_string(error_kind_name(fault->kind), out);
    g_string_append(out, ",\"detail\":");
    api_encode_string(fault->text, out);
    g_string_append(out, ",\"path\":");
    api_encode_string(fault->path ? fault->path : "", out);
    g_string_append(out, "}}}");
}
