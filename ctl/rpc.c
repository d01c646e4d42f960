#include "ctl/rpc.h"
#include "ctl/errors.h"
#include <string.h>

enum { REQUEST_MAX_BYTES = 1024 * 1024 }; /* design: a request has 1 MiB at most */

void answer_clear(Answer *answer)
{
    g_clear_pointer(&answer->text, json_text_free);
    answer->result = NULL;
}

Socket *rpc_open(const Options *options, GError **error)
{
    g_autofree char *path = socket_path(options->socket);
    return socket_connect(path, options->timeout_seconds, error);
}

bool rpc_fail_garbage(const Socket *socket, const char *problem, GError **error)
{
    ctl_fail(error, CTL_UNREACHABLE, "what answers on %s is no nbdd: %s", socket_name(socket),
             problem);
    return false;
}

static JsonText *receive_object(Socket *socket, GError **error)
{
    size_t length;
    const char *line = socket_receive(socket, &length, error);
    if (line == NULL)
        return NULL;
    g_autofree char *problem = NULL;
    g_autoptr(JsonText) text = json_parse(line, length, &problem);
    if (text == NULL || !json_is(json_root(text), JSON_OBJECT)) {
        g_autofree char *why = text == NULL
                                   ? g_strdup_printf("its answer is no JSON text: %s", problem)
                                   : g_strdup("its answer is no JSON object");
        rpc_fail_garbage(socket, why, error);
        return NULL;
    }
    return g_steal_pointer(&text);
}

static bool is_notification(const Json *object)
{
    return json_member(object, "id") == NULL && json_is(json_member(object, "method"), JSON_STRING);
}

bool rpc_call(Socket *socket, const char *method, const CliMethod *known, const char *params,
              Answer *ret_answer, GError **error)
{
    g_autoptr(GString) request = g_string_new("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":");
    json_append_string(request, method);
    g_string_append_printf(request, ",\"params\":%s}", params);
    if (request->len + 1 > REQUEST_MAX_BYTES) {
        ctl_fail(error, CTL_USAGE, "the request has %zu bytes; nbdd takes %d at most", request->len,
                 REQUEST_MAX_BYTES);
        return false;
    }
    if (!socket_send(socket, request->str, error))
        return false;
    for (;;) {
        g_autoptr(JsonText) text = receive_object(socket, error);
        if (text == NULL)
            return false;
        const Json *root = json_root(text), *id = json_member(root, "id");
        const Json *refusal = json_member(root, "error"), *result = json_member(root, "result");
        if (is_notification(root))
            continue;
        /* An error without an id answers a line that the daemon could not read. */
        bool ours = json_is(id, JSON_NUMBER) && id->length == 1 && *id->text == '1';
        if (!ours && !(json_is(id, JSON_NULL) && refusal != NULL))
            return rpc_fail_garbage(socket, "its answer is to another request", error);
        if (json_is(refusal, JSON_OBJECT)) {
            ctl_fail_refused(error, known, refusal);
            return false;
        }
        if (!json_is(result, JSON_OBJECT))
            return rpc_fail_garbage(socket, "its answer has neither a result object nor an error",
                                    error);
        ret_answer->result = result;
        ret_answer->text = g_steal_pointer(&text);
        return true;
    }
}

bool rpc_notification(Socket *socket, Answer *ret_answer, GError **error)
{
    g_autoptr(JsonText) text = receive_object(socket, error);
    if (text == NULL)
        return false;
    const Json *params = json_member(json_root(text), "params");
    if (!is_notification(json_root(text)) || !json_is(params, JSON_OBJECT))
        return rpc_fail_garbage(socket, "a notification was expected", error);
    ret_answer->result = params;
    ret_answer->text = g_steal_pointer(&text);
    return true;
}
