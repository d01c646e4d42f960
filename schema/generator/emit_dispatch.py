"""C for the daemon: handlers.h and dispatch.c, what handlers there have to be and the table of them."""

from .emit_c import NOTE, comment, quote, result_table


def prototypes(method):
    """(C function name, prototype) of every handler the method needs."""
    params, result = method.camel + "Params", method.camel + "Result"
    plain = ("bool %s_%s(Call *call, const %s *params, %s *result, GError **error)" %
             ("control" if method.handler == "control" else "method", method.snake, params, result))
    if not method.transaction:
        return [plain]
    out = ["bool action_%s(Txn *txn, const %s *params, GError **error)" % (method.snake, params),
           "bool describe_%s(Txn *txn, Registry *registry, const %s *params, %s *result, "
           "GError **error)" % (method.snake, params, result)]
    if method.transaction == "when safe":
        out += [plain, "bool %s_is_plain(const %s *params)" % (method.snake, params)]
    return out


def handlers_header(schema):
    out = NOTE + "#ifndef SCHEMA_HANDLERS_H\n#define SCHEMA_HANDLERS_H\n\n"
    out += '#include "schema/api.h"\n\n'
    out += comment("The handlers that the dispatch table needs. method_, action_ and describe_ are in "
                   "daemon/methods/, control_ in daemon/control/. A missing one is a link error.")
    for method in schema.methods.values():
        out += "\n" + comment("%s: %s" % (method.name, method.summary))
        out += "".join("%s;\n" % text for text in prototypes(method))
    out += "\n" + comment("Every method, in the order of names.")
    out += "extern const ApiMethod api_methods[];\nextern const size_t api_method_count;\n\n#endif\n"
    return out


def dispatch_source(schema):
    out = NOTE + '#include "schema/handlers.h"\n\n'
    rows = ""
    for method in schema.methods.values():
        row = {"name": quote(method.name), "access": "API_ACCESS_" + method.access.upper(),
               "params": "&api_%s_params" % method.snake, "result": "&" + result_table(method)}
        if method.inline:
            row["is_inline"] = "true"
        if method.result == "json":
            row["json_result"] = "true"
        row["kind"] = "API_METHOD_PLAIN"
        if method.handler == "control":
            row["kind"] = "API_METHOD_CONTROL"
        elif method.transaction:
            row["kind"] = "API_METHOD_TRANSACTION"
        if not method.transaction or method.transaction == "when safe":
            out += ("static bool call_%s(Call *call, const void *params, void *result, GError **error)\n"
                    "{\n    return %s_%s(call, params, result, error);\n}\n\n" %
                    (method.snake, "control" if method.handler == "control" else "method",
                     method.snake))
            row["call"] = "call_" + method.snake
        if method.transaction:
            out += ("static bool do_%s(Txn *txn, const void *params, GError **error)\n"
                    "{\n    return action_%s(txn, params, error);\n}\n\n"
                    "static bool tell_%s(Txn *txn, Registry *registry, const void *params, "
                    "void *result, GError **error)\n"
                    "{\n    return describe_%s(txn, registry, params, result, error);\n}\n\n" %
                    ((method.snake,) * 4))
            row["action"], row["describe"] = "do_" + method.snake, "tell_" + method.snake
        if method.transaction == "when safe":
            out += ("static bool plain_%s(const void *params)\n{\n    return %s_is_plain(params);\n}\n\n"
                    % (method.snake, method.snake))
            row["is_plain"] = "plain_" + method.snake
        if method.mutates:
            out += ("static bool dry_%s(const void *params)\n{\n"
                    "    return ((const %sParams *)params)->dry_run;\n}\n\n" %
                    (method.snake, method.camel))
            row["is_dry_run"] = "dry_" + method.snake
        rows += "    {%s},\n" % ", ".join(".%s = %s" % item for item in row.items())
    out += "const ApiMethod api_methods[] = {\n%s};\n" % rows
    return out + "const size_t api_method_count = G_N_ELEMENTS(api_methods);\n"


def dispatch(schema):
    return [handlers_header(schema), dispatch_source(schema)]
